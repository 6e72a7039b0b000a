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
from local.small_backends import saved_chat

KINDS = ("scripted", "http", "local")
SAMPLING = Sampling(temperature=1.0, seed=5, max_tokens=200)


class Person(BaseModel):
    """Someone that even a random model can only describe in one way."""

    name: Literal["Ada"]
    age: Literal[36]


def get_weather(city: Literal["Paris"]) -> dict[str, int]:
    """Get the weather of a city."""
    return {"temperature": 21}


@asynccontextmanager
async def talking(kind: str, folder: Path, *script: str) -> AsyncGenerator[Llama4]:
    match kind:
        case "scripted":
            async with Llama4(ScriptedBackend(*script)) as llama:
                yield llama
        case "http":
            async with FaultServer() as server, Llama4(HttpBackend(server.url, model="faults")) as llama:
                yield llama
        case _:
            async with Llama4(LocalBackend(saved_chat(folder))) as llama:
                yield llama


@pytest.mark.parametrize("kind", KINDS)
async def test_the_typed_answer_is_the_same(kind: str, tmp_path: Path) -> None:
    answer = '{"name": "Ada", "age": 36}'
    async with talking(kind, tmp_path, answer) as llama:
        reply = await llama.chat(f"Say {answer}", output=Person, sampling=SAMPLING)
    assert reply.output == Person(name="Ada", age=36)
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_call_and_its_result_are_the_same(kind: str, tmp_path: Path) -> None:
    async with talking(kind, tmp_path, '[get_weather(city="Paris")]', "It is 21.") as llama:
        run = await llama.run(
            "Weather in Paris?", tools=[get_weather], tool_choice="get_weather", max_rounds=2, sampling=SAMPLING
        )
    first: Any = run.calls[0]
    assert (first.call.name, first.call.arguments) == ("get_weather", {"city": "Paris"})
    assert (first.value, first.error) == ({"temperature": 21}, None)
    assert [message.role for message in run.messages[:3]] == ["user", "assistant", "tool"]
