"""The scripted backend keeps the promises of every backend, and follows its script."""

from __future__ import annotations

import pytest

from llama4sdk import (
    Backend,
    Done,
    Llama4,
    LlamaError,
    Sampling,
    ServerFault,
    TextDelta,
    ToolCall,
    ToolCallReady,
)
from llama4sdk.testing import ScriptedBackend
from llama4sdk.testing.conformance import BackendConformance


class TestScriptedBackend(BackendConformance):
    def make(self) -> Backend:
        return ScriptedBackend(lambda request: f"You said: {request.messages[-1].text} " + "word " * 30, context=500)

    def held(self, backend: Backend) -> int:
        assert isinstance(backend, ScriptedBackend)
        return backend.running


async def test_answers_come_in_order_and_the_last_is_repeated() -> None:
    async with Llama4(ScriptedBackend("one", "two")) as llama:
        assert [(await llama.chat("?")).text for _ in range(3)] == ["one", "two", "two"]


async def test_without_a_script_it_repeats_what_was_said() -> None:
    async with Llama4(ScriptedBackend()) as llama:
        assert (await llama.chat("  say  this\n")).text == "  say  this\n"


async def test_an_error_in_the_script_is_raised_after_the_text_before_it() -> None:
    seen: list[str] = []
    async with (
        Llama4(ScriptedBackend(["half an", ServerFault("broken")])) as llama,
        llama.stream("?") as stream,
    ):
        with pytest.raises(LlamaError, match="broken"):
            async for text in stream.text():
                seen.append(text)
    assert seen == ["half", " an"]


async def test_events_in_the_script_pass_as_they_are() -> None:
    call = ToolCallReady(0, ToolCall("f", {"a": 1}, "id"))
    async with Llama4(ScriptedBackend([call])) as llama:
        reply = await llama.chat("?")
    assert reply.tool_calls == (call.call,)
    assert reply.finish_reason == "tool_calls"


async def test_stop_strings_end_the_answer_and_are_no_part_of_it() -> None:
    async with Llama4(ScriptedBackend("one two. three")) as llama:
        assert (await llama.chat("?", sampling=Sampling(stop="."))).text == "one two"


async def test_requests_are_remembered() -> None:
    backend = ScriptedBackend([Done("stop")], [TextDelta("x")])
    async with Llama4(backend) as llama:
        await llama.chat("first")
        await llama.chat("second")
    assert [request.messages[-1].text for request in backend.requests] == ["first", "second"]
