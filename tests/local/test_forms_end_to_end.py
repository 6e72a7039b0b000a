"""A random checkpoint at temperature 1.5 keeps to every form, from the client down to the sampler.

The whole thousand: LLAMA4_END_TO_END_FORMS=1000 pytest -s tests/local/test_forms_end_to_end.py
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from llama4_local import LocalBackend
from llama4sdk import InvalidRequest, Llama4, OutputSpec, Reply, Sampling
from llama4sdk.output import JsonSchema
from llama4sdk.output.fitting import fit
from local.random_forms import random_schema, random_tools, save_writer

MANY = int(os.environ.get("LLAMA4_END_TO_END_FORMS", "16"))
AT_ONCE = 32
ROOM = 300  # tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_writer(tmp_path_factory.mktemp("writer"))


@pytest.fixture
async def llama(folder: Path) -> AsyncGenerator[Llama4]:
    async with Llama4(LocalBackend(folder, max_sequences=AT_ONCE, memory="2GB", threads=1)) as llama:
        yield llama


def hot(seed: int) -> Sampling:
    return Sampling(temperature=1.5, top_p=1.0, max_tokens=ROOM, seed=seed)


async def ends(ask: Callable[[int], Awaitable[Reply]]) -> Counter[str]:
    """Ask many times, some at once; return how often answers ended how."""
    counted: Counter[str] = Counter()
    room = anyio.CapacityLimiter(AT_ONCE)

    async def one(seed: int) -> None:
        async with room:
            counted[(await ask(seed)).finish_reason or "none"] += 1

    async with anyio.create_task_group() as tasks:
        for seed in range(MANY):
            tasks.start_soon(one, seed)
    return counted


async def test_tools_may_be_declared_in_the_users_message(folder: Path) -> None:
    tools = random_tools(random.Random(0))
    async with Llama4(LocalBackend(folder, memory="2GB", tools_in="user")) as llama:
        assert llama.render("Go on.", tools=tools).text.startswith(
            "<|begin_of_text|><|header_start|>user<|header_end|>"
        )
        reply = await llama.chat("Go on.", tools=tools, tool_choice="required", sampling=hot(0))
    assert reply.tool_calls or reply.finish_reason == "length"
    with pytest.raises(InvalidRequest, match="tools_in"):
        LocalBackend(folder, tools_in="tool")  # type: ignore[arg-type]


async def test_random_schemas_give_valid_answers(llama: Llama4) -> None:
    async def ask(seed: int) -> Reply:
        schema = random_schema(random.Random(seed))
        reply = await llama.chat("Go on.", output=OutputSpec(schema), sampling=hot(seed))
        if reply.finish_reason != "length":
            assert fit(JsonSchema(schema), json.loads(reply.text))[1] == [], (schema, reply.text)
            assert reply.output == json.loads(reply.text)
        return reply

    counted = await ends(ask)
    print(f"\n{MANY} schemas, random checkpoint, temperature 1.5: {dict(counted)}")
    assert counted["stop"] + counted["length"] == MANY
    assert counted["stop"] > MANY * 0.5


@pytest.mark.parametrize("choice", ["required", "named"])
async def test_random_tool_sets_give_valid_calls(llama: Llama4, choice: str) -> None:
    async def ask(seed: int) -> Reply:
        tools = random_tools(random.Random(seed))
        allowed = tools if choice == "required" else tools[:1]
        reply = await llama.chat(
            "Go on.", tools=tools, tool_choice=choice if choice == "required" else tools[0].name, sampling=hot(seed)
        )
        if reply.finish_reason != "length":
            assert reply.text == "", (tools, reply.text)
            assert reply.tool_calls
        for call in reply.tool_calls:  # those before a cut are whole
            (tool,) = (tool for tool in allowed if tool.name == call.name)
            assert fit(JsonSchema(tool.parameters), call.arguments)[1] == [], (tool, call)
        return reply

    counted = await ends(ask)
    print(f"\n{MANY} tool sets ({choice}), random checkpoint, temperature 1.5: {dict(counted)}")
    assert counted["tool_calls"] + counted["length"] == MANY
    assert counted["tool_calls"] > MANY * 0.5
