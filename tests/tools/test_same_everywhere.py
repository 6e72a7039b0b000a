"""The same script gives the same typed results on the scripted backend, over HTTP, and on the local one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from llama4_http import HttpBackend
from llama4_local import LocalBackend
from llama4sdk import Llama4, Sampling
from llama4sdk.testing import ScriptedBackend
from llama4sdk.testing.faults import FaultServer

NANO = Path(__file__).parents[2] / "backends" / "llama4_local" / "nano" / "checkpoint" / "model.safetensors"
KINDS = (
    "scripted",
    "http",
    pytest.param(
        "local", marks=pytest.mark.skipif(not NANO.exists(), reason="the nano checkpoint is not in this checkout")
    ),
)
SAMPLING = Sampling(temperature=0, max_tokens=200)


class Person(BaseModel):
    """Someone who can be described in one way only."""

    name: Literal["Ada"]
    age: Literal[36]


def get_weather(city: Literal["Paris"]) -> dict[str, int]:
    """Get the weather of a city."""
    return {"temperature": 21}


@asynccontextmanager
async def talking(kind: str, *script: str) -> AsyncGenerator[Llama4]:
    match kind:
        case "scripted":
            async with Llama4(ScriptedBackend(*script)) as llama:
                yield llama
        case "http":
            async with FaultServer() as server, Llama4(HttpBackend(server.url, model="faults")) as llama:
                yield llama
        case _:
            async with Llama4(LocalBackend(threads=1)) as llama:
                yield llama


@pytest.mark.parametrize("kind", KINDS)
async def test_the_typed_answer_is_the_same(kind: str) -> None:
    answer = '{"name": "Ada", "age": 36}'
    async with talking(kind, answer) as llama:
        reply = await llama.chat(f"Say {answer}", output=Person, sampling=SAMPLING)
    assert reply.output == Person(name="Ada", age=36)
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_call_and_its_result_are_the_same(kind: str) -> None:
    async with talking(kind, '[get_weather(city="Paris")]', "It is 21.") as llama:
        run = await llama.run(
            "Weather in Paris?", tools=[get_weather], tool_choice="get_weather", max_rounds=2, sampling=SAMPLING
        )
    first: Any = run.calls[0]
    assert (first.call.name, first.call.arguments) == ("get_weather", {"city": "Paris"})
    assert (first.value, first.error) == ({"temperature": 21}, None)
    assert [message.role for message in run.messages[:3]] == ["user", "assistant", "tool"]
