"""The same script gives the same typed results on the scripted backend, over HTTP, and on the local one."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from llama4_http import HttpBackend
from llama4_http.profiles import profile_named
from llama4_local import LocalBackend
from llama4sdk import InvalidRequest, Llama4, OutputInvalid, Sampling
from llama4sdk.testing.faults import FaultServer
from tools.written import Writes

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


def get_time(city: Literal["Rome"]) -> str:
    """Get the time in a city."""
    return "noon"


@asynccontextmanager
async def talking(kind: str, *script: str) -> AsyncGenerator[Llama4]:
    match kind:
        case "scripted":
            async with Llama4(Writes(*script)) as llama:
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", ["auto", "none", "required", "get_weather"])
async def test_every_choice_of_tools_means_the_same(kind: str, choice: str) -> None:
    call = '[get_weather(city="Paris")]'
    async with talking(kind, call) as llama:
        reply = await llama.chat(
            f"Weather in Paris? {call}", tools=[get_weather, get_time], tool_choice=choice, sampling=SAMPLING
        )
    match choice:
        case "none":
            assert reply.tool_calls == ()
            assert kind == "local" or call in reply.text  # nano may say what it likes
        case "auto" if kind == "local":
            assert all(called.name in ("get_weather", "get_time") for called in reply.tool_calls)
        case "required" if kind == "local":
            assert reply.tool_calls
        case _:
            assert {called.name for called in reply.tool_calls} == {"get_weather"}
    assert reply.finish_reason == ("tool_calls" if reply.tool_calls else "stop")


BAD = "half \ud83d"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "asked",
    [
        lambda: {"prompt": BAD},
        lambda: {"prompt": [{"role": "user", "content": [{"type": "text", "text": BAD}]}]},
        lambda: {"prompt": "?", "tools": [{"name": "f", "description": BAD, "parameters": {"type": "object"}}]},
        lambda: {
            "prompt": "?",
            "tools": [{"name": "f", "parameters": {"type": "object", "properties": {BAD: {"type": "null"}}}}],
        },
        lambda: {"prompt": "?", "output": {"enum": [BAD]}},
        lambda: {"prompt": "?", "sampling": Sampling(stop=BAD)},
    ],
    ids=["text", "part", "description", "argument", "schema", "stop"],
)
async def test_fault_44_a_lone_surrogate_is_refused_everywhere(kind: str, asked: Callable[[], dict[str, Any]]) -> None:
    async with talking(kind, "never said") as llama:
        with pytest.raises(InvalidRequest, match="surrogate"):
            await llama.chat(**asked())


async def test_a_server_that_ignores_the_schema_is_found_out_and_asked_once_more() -> None:
    async with FaultServer() as server, Llama4(HttpBackend(server.url, model="faults")) as llama:
        with pytest.raises(OutputInvalid) as caught:
            await llama.chat("Who?", output=Person, repair=1)
        posts = [json.loads(received.body) for received in server.received if received.method == "POST"]
    assert "you said" in caught.value.raw
    assert [[message["role"] for message in each["messages"]] for each in posts] == [
        ["system", "user"],  # the system message shows the schema
        ["system", "user", "assistant", "user"],
    ]
    assert all(each["response_format"]["json_schema"]["name"] == "Person" for each in posts)


async def test_calls_that_a_server_leaves_in_the_text_are_the_same() -> None:
    own = replace(profile_named("openai-generic"), tools=False)
    async with FaultServer() as server, Llama4(HttpBackend(server.url, model="faults", profile=own)) as llama:
        reply = await llama.chat('Do [get_weather(city="Paris")]', tools=[get_weather], sampling=SAMPLING)
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("get_weather", {"city": "Paris"})]
    assert reply.finish_reason == "tool_calls"
