"""A stream hands events out, adds them up, and stops when it is told to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from llama4sdk import (
    Capabilities,
    DeadlineExceeded,
    Deadlines,
    Done,
    Event,
    InvalidRequest,
    Llama4,
    Reply,
    Request,
    ServerFault,
    StreamInterrupted,
    Switched,
    TextDelta,
    Usage,
)
from llama4sdk.testing import ScriptedBackend

WORDS = "one two three four five"


async def test_text_comes_in_pieces_and_the_snapshot_grows() -> None:
    async with Llama4(ScriptedBackend(WORDS)) as llama, llama.stream("?") as stream:
        pieces: list[str] = []
        async for text in stream.text():
            pieces.append(text)
            assert stream.snapshot.text == "".join(pieces)
            assert stream.snapshot.finish_reason is None
        assert len(pieces) == 5
        assert stream.snapshot.complete


async def test_the_result_may_be_asked_for_in_the_middle() -> None:
    async with Llama4(ScriptedBackend(WORDS)) as llama, llama.stream("?") as stream:
        async for _ in stream.text():
            break
        reply = await stream.result()
    assert reply.text == WORDS
    assert reply.usage == Usage(prompt_tokens=1, completion_tokens=5)
    assert str(reply) == reply.message.text == WORDS


async def test_leaving_the_block_early_stops_the_backend() -> None:
    backend = ScriptedBackend(WORDS, pause=0.01)
    async with Llama4(backend) as llama:
        async with llama.stream("?") as stream:
            async for _ in stream.text():
                break
        assert backend.running == 0
        with pytest.raises(InvalidRequest, match="inside the block"):
            await stream.result()


async def test_cancel_works_while_nobody_reads() -> None:
    backend = ScriptedBackend(WORDS, pause=0.01)
    async with Llama4(backend) as llama, llama.stream("?") as stream:
        while not backend.running:
            await anyio.lowlevel.checkpoint()
        await stream.cancel()
        assert backend.running == 0
        reply = await stream.result()
    assert reply.finish_reason == "cancelled"
    assert not reply.complete


async def test_cancel_may_come_after_the_end_and_twice() -> None:
    async with Llama4(ScriptedBackend(WORDS)) as llama, llama.stream("?") as stream:
        reply = await stream.result()
        await stream.cancel()
        await stream.cancel()
        assert await stream.result() == reply


async def test_a_slow_reader_holds_its_backend_back() -> None:
    handed = 0

    def count(_: Request) -> list[str]:
        class Counting(list[str]):
            def __iter__(self):  # type: ignore[no-untyped-def]
                nonlocal handed
                for _ in range(10_000):
                    handed += 1
                    yield "word"

        return Counting()

    async with Llama4(ScriptedBackend(count)) as llama, llama.stream("?") as stream:
        async for _ in stream.text():
            break
        for _ in range(500):
            await anyio.lowlevel.checkpoint()
        assert handed < 100


async def test_an_error_ends_the_stream_and_stays() -> None:
    async with Llama4(ScriptedBackend(["a ", ServerFault("broken")])) as llama, llama.stream("?") as stream:
        for _ in range(2):
            with pytest.raises(ServerFault, match="broken") as caught:
                await stream.result()
            assert caught.value.backend == "scripted"
            assert caught.value.request_id == stream.request.request_id
        assert stream.snapshot.text.strip() == "a"


@pytest.mark.parametrize("phase", ["first_token", "idle", "total"])
async def test_deadlines_end_the_stream_with_what_had_come(phase: str) -> None:
    script = [60.0, "late"] if phase == "first_token" else ["early", 60.0, "late"]
    async with Llama4(ScriptedBackend(script)) as llama:
        with pytest.raises(DeadlineExceeded) as caught:
            await llama.chat("?", deadlines=Deadlines(**{phase: 0.05}))
    assert caught.value.phase == phase
    assert isinstance(caught.value.partial, Reply)
    assert caught.value.partial.text == ("" if phase == "first_token" else "early")


class Broken(ScriptedBackend):
    """Breaks in the way that it is told."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("broken")

    def open(self, request: Request):  # type: ignore[no-untyped-def]
        return self._broken()

    @asynccontextmanager
    async def _broken(self) -> AsyncGenerator[AsyncIterator[Event]]:
        async def events() -> AsyncIterator[Event]:
            yield TextDelta("half")
            if self.how == "bug":
                raise ZeroDivisionError("prompt text")
            if self.how == "group":
                raise ExceptionGroup("several", [ServerFault("inner")])
            if self.how == "trailing":
                yield Done("stop")
                yield TextDelta("too late")

        yield events()


async def test_events_that_just_end_are_no_success() -> None:
    async with Llama4(Broken("silent end")) as llama:
        with pytest.raises(StreamInterrupted) as caught:
            await llama.chat("?")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "half"


async def test_a_bug_in_a_backend_is_a_server_fault_that_keeps_its_cause() -> None:
    async with Llama4(Broken("bug")) as llama:
        with pytest.raises(ServerFault, match="ZeroDivisionError") as caught:
            await llama.chat("?")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "prompt text" not in str(caught.value)


async def test_a_group_of_one_error_is_that_error() -> None:
    async with Llama4(Broken("group")) as llama:
        with pytest.raises(ServerFault, match="inner"):
            await llama.chat("?")


@pytest.mark.parametrize("kind", ["group", "alone"])
async def test_a_cancellation_that_a_backend_lets_out_is_no_end_of_the_answer(kind: str) -> None:
    class Cancelled(ScriptedBackend):
        @asynccontextmanager
        async def open(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
            async with super().open(request) as events:
                yield self.some(events)

        async def some(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
            for _ in range(3):
                yield await anext(events)
            cancelled = anyio.get_cancelled_exc_class()
            raise BaseExceptionGroup("", [cancelled(), ValueError()]) if kind == "group" else cancelled()

    async with Llama4(Cancelled(WORDS)) as llama, llama.stream("?") as stream:
        with pytest.raises(ServerFault if kind == "group" else StreamInterrupted):
            await stream.result()
        assert not stream.snapshot.complete


async def test_nothing_comes_after_done() -> None:
    async with Llama4(Broken("trailing")) as llama:
        assert (await llama.chat("?")).text == "half"


async def test_a_stream_is_entered_before_it_is_read_and_only_once() -> None:
    async with Llama4(ScriptedBackend(WORDS)) as llama:
        stream = llama.stream("?")
        with pytest.raises(InvalidRequest, match="Enter the stream"):
            await stream.result()
        async with stream:
            await stream.result()
        with pytest.raises(InvalidRequest, match="once"):
            async with stream:
                pass


async def test_an_exception_in_the_block_comes_out_as_it_is() -> None:
    async with Llama4(ScriptedBackend(WORDS)) as llama:
        with pytest.raises(KeyError, match="mine"):
            async with llama.stream("?"):
                raise KeyError("mine")


async def test_cancelling_around_a_stream_is_never_wrapped() -> None:
    async with Llama4(ScriptedBackend(WORDS, pause=60)) as llama:
        with anyio.move_on_after(0.02) as scope:
            await llama.chat("?")
    assert scope.cancelled_caught


async def test_what_a_switch_withdraws_is_no_part_of_the_reply_nor_of_the_calls_read_from_it() -> None:
    begun = ["never mind [weather(city=", Switched("other", "the first one broke", withdrawn=True, model="second")]
    async with Llama4(ScriptedBackend([*begun, '[weather(city="Rome")]'])) as llama:
        reply = await llama.chat("?", tools=[weather])
    assert reply.text == ""
    assert [call.arguments for call in reply.tool_calls] == [{"city": "Rome"}]
    assert (reply.backend, reply.model) == ("other", "second")


async def test_a_typed_answer_that_begins_anew_is_read_from_its_new_beginning() -> None:
    steps = ['{"city": "Par', Switched("other", "broke", withdrawn=True), '{"city": "Rome"}']
    async with Llama4(ScriptedBackend(steps)) as llama:
        reply = await llama.chat("?", output={"type": "object", "properties": {"city": {"type": "string"}}})
    assert (reply.text, reply.output) == ('{"city": "Rome"}', {"city": "Rome"})


def weather(city: str) -> str:
    """The weather in a city."""
    return city
