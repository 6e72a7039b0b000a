"""Tool calls in a stream: read above the seam, the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llama4sdk import (
    Capabilities,
    Done,
    Llama4,
    Reply,
    Sampling,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    ToolCallStarted,
    ToolSpec,
)
from tools.written import Writes

TOOL = ToolSpec("f", "Do it.", {"type": "object", "properties": {"a": {"type": "integer"}}})


class Parses(Writes):
    """A backend that parses calls itself."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("scripted", "script", parses_tool_calls=True)


async def ask(backend: Writes, *, tools: Sequence[ToolSpec] = (TOOL,), **options: Any) -> Reply:
    async with Llama4(backend) as llama:
        return await llama.chat("?", tools=tools, **options)


async def test_calls_come_out_of_the_text() -> None:
    reply = await ask(Writes('Let me see.\n\n[f(a="-1"), f(a=2)]'))
    assert reply.text == "Let me see."
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("f", {"a": -1}), ("f", {"a": 2})]
    assert (reply.finish_reason, reply.complete) == ("tool_calls", True)
    assert len({call.id for call in reply.tool_calls}) == 2
    assert reply.message.tool_calls == reply.tool_calls


async def test_words_stay_words() -> None:
    reply = await ask(Writes("  No call [here].\n"))
    assert (reply.text, reply.tool_calls, reply.finish_reason) == ("  No call [here].\n", (), "stop")


@pytest.mark.parametrize("options", [{"tools": []}, {"tool_choice": "none"}])
async def test_without_declared_tools_nothing_is_read(options: dict[str, Any]) -> None:
    assert (await ask(Writes("[f(a=1)]"), **options)).text == "[f(a=1)]"


async def test_a_cut_answer_says_length_and_loses_no_text() -> None:
    reply = await ask(Writes("Well, [f(a=1 b c d"), sampling=Sampling(max_tokens=2))
    assert (reply.text, reply.finish_reason, reply.tool_calls) == ("Well, [f(a=1", "length", ())


async def test_calls_that_a_backend_parsed_pass_as_they_are() -> None:
    calls = [ToolCallStarted(0, "f"), ToolCallDelta(0, "{}"), ToolCallReady(0, ToolCall("f", {"a": "1"}, "s"))]
    async with Llama4(Parses(["Words."], [*calls])) as llama:
        assert (await llama.chat("?", tools=[TOOL])).text == "Words."
        async with llama.stream("?", tools=[TOOL]) as stream:
            events = [event async for event in stream]
    assert events[1:-1] == calls


async def test_a_backend_that_parses_calls_may_leave_some_in_the_text() -> None:
    reply = await ask(Parses("Let me see. [f(a=-1)]"))
    assert (reply.text, reply.tool_calls[0].arguments, reply.finish_reason) == ("Let me see.", {"a": -1}, "tool_calls")


async def test_calls_that_a_server_missed_are_added_to_those_that_it_parsed() -> None:
    calls = [
        TextDelta("[f("),
        ToolCallStarted(0, "f", "s0"),
        TextDelta("a=1)]"),
        ToolCallReady(0, ToolCall("f", {"a": 0}, "s0")),
        Done("stop"),
    ]
    reply = await ask(Writes(calls))
    assert sorted(call.arguments["a"] for call in reply.tool_calls) == [0, 1]
    assert reply.finish_reason == "tool_calls"


async def test_a_cancelled_stream_keeps_what_was_certain() -> None:
    async with Llama4(Writes(["Hello [f(a=", 60.0])) as llama, llama.stream("?", tools=[TOOL]) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                await stream.cancel()
        assert stream.snapshot.finish_reason == "cancelled"
        assert stream.snapshot.text == "Hello"
