"""`Fallback` asks the next backend where one fails, and goes on where an answer broke off."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from llama4sdk import (
    BadKey,
    Capabilities,
    ContextOverflow,
    DeadlineExceeded,
    Deadlines,
    Done,
    InvalidRequest,
    Llama4,
    LlamaError,
    ModelRetired,
    Overloaded,
    ProtocolError,
    Request,
    Sampling,
    ServerFault,
    Started,
    StreamInterrupted,
    Switched,
    TextDelta,
    ToolCall,
    ToolCallReady,
    ToolCallStarted,
    Unreachable,
)
from llama4sdk.backend import Backend
from llama4sdk.events import Event
from llama4sdk.messages import conversation
from llama4sdk.routing import Breaker, Fallback
from llama4sdk.testing import ScriptedBackend
from routing.failing import Cutting, done_of, events_of, text_of

WORDS = "one two three four five six"
ASK = Request(conversation("?"))


class Nameless(ScriptedBackend):
    """A script that cannot go on with a beginning."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, continues="nothing")


def words(count: int, error: LlamaError | None = None) -> ScriptedBackend:
    text = "".join(f" {word}" for word in WORDS.split()[:count]).strip()
    return ScriptedBackend([text, error or ServerFault("broken")] if count else [error or ServerFault("broken")])


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("gone"),
        ServerFault("broken"),
        ServerFault("the device is lost", retryable=False),
        Overloaded("busy", retry_after=1),
        StreamInterrupted("cut"),
        ProtocolError("nonsense"),
        DeadlineExceeded("slow", phase="first_token"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("shown", range(7))
async def test_wherever_the_first_backend_fails_the_reader_gets_the_whole_answer_once(
    error: LlamaError, shown: int
) -> None:
    second = ScriptedBackend(WORDS)
    events = await events_of(Fallback(words(shown, error), second), ASK)
    assert text_of(events) == WORDS
    kinds = [type(event) for event in events]
    assert (kinds.count(Started), kinds.count(Switched), kinds.count(Done)) == (1, 1, 1)
    assert kinds.index(Switched) == 1 + shown
    assert second.requests[0].answer_so_far == " ".join(WORDS.split()[:shown])


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("nonsense"), ContextOverflow("long"), BadKey("whose?"), ModelRetired("gone")],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_that_another_backend_cannot_mend_is_raised_as_it_is(error: LlamaError) -> None:
    second = ScriptedBackend(WORDS)
    with pytest.raises(type(error)) as caught:
        await events_of(Fallback(words(0, error), second), ASK)
    assert caught.value is error
    assert not second.requests


async def test_a_policy_decides_per_class_and_the_nearest_class_counts() -> None:
    events = await events_of(Fallback(words(0, BadKey("whose?")), ScriptedBackend("b"), policy={BadKey: "next"}), ASK)
    assert text_of(events) == "b"
    with pytest.raises(Overloaded):
        await events_of(Fallback(words(0, Overloaded("busy")), ScriptedBackend("b"), policy={Overloaded: "raise"}), ASK)
    with pytest.raises(InvalidRequest, match="'next' or 'raise'"):
        Fallback(ScriptedBackend(), policy={BadKey: "again"})  # type: ignore[dict-item]
    with pytest.raises(InvalidRequest, match="classes of LlamaError"):
        Fallback(ScriptedBackend(), policy={KeyError: "next"})  # type: ignore[dict-item]


async def test_the_last_error_stands_and_carries_those_before_it_as_notes() -> None:
    with pytest.raises(Unreachable) as caught:
        await events_of(Fallback(words(0, ServerFault("first")), words(0, Unreachable("second"))), ASK)
    assert any("first" in note for note in caught.value.__notes__)


async def test_an_exception_of_a_backends_own_is_a_failure_like_others() -> None:
    def fail(request: Request) -> str:
        raise KeyError(request.request_id)

    assert text_of(await events_of(Fallback(ScriptedBackend(fail), ScriptedBackend("b")), ASK)) == "b"


async def test_events_that_end_without_done_are_no_answer() -> None:
    events = await events_of(Fallback(Cutting(ScriptedBackend(WORDS), 3, error=None), ScriptedBackend(WORDS)), ASK)
    assert text_of(events) == WORDS


async def test_with_resume_switched_off_a_broken_answer_is_an_error_and_a_failed_beginning_is_not() -> None:
    with pytest.raises(ServerFault):
        await events_of(Fallback(words(2), ScriptedBackend(WORDS), resume=False), ASK)
    assert text_of(await events_of(Fallback(words(0), ScriptedBackend(WORDS), resume=False), ASK)) == WORDS


async def test_where_no_backend_goes_on_with_a_beginning_the_error_says_so_and_nothing_is_doubled() -> None:
    seen: list[str] = []
    async with Llama4(Fallback(words(2), Nameless(WORDS))) as llama, llama.stream("?") as stream:
        with pytest.raises(ServerFault) as caught:
            async for text in stream.text():
                seen.append(text)
    assert seen == ["one", " two"]
    assert any("goes on with the beginning" in note for note in caught.value.__notes__)


async def test_a_backend_that_cannot_go_on_is_passed_over_for_one_that_can() -> None:
    events = await events_of(Fallback(words(2), Nameless("no"), ScriptedBackend(WORDS)), ASK)
    assert text_of(events) == WORDS


async def test_calls_that_were_shown_as_events_are_withdrawn_and_begin_anew() -> None:
    call = ToolCall("f", {"a": 1}, "id")
    first = ScriptedBackend([ToolCallStarted(0, "f", "x"), ToolCallReady(0, call), ServerFault("broken")])
    async with Llama4(Fallback(first, ScriptedBackend([ToolCallReady(0, call)]))) as llama:
        async with llama.stream("?") as stream:
            events = [event async for event in stream]
        reply = stream.snapshot
    assert [event.withdrawn for event in events if isinstance(event, Switched)] == [True]
    assert reply.tool_calls == (call,)


SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.mark.parametrize("continues", ["text", "everything", "nothing"])
async def test_a_typed_answer_goes_on_or_begins_anew(continues: str) -> None:
    first = Cutting(ScriptedBackend(['{"a": "on', ServerFault("broken")]), None, continues=continues)
    second = Cutting(ScriptedBackend('{"a": "on e"}'), None, continues=continues)
    async with Llama4(Fallback(first, second)) as llama, llama.stream("?", output=SCHEMA) as stream:
        events = [event async for event in stream]
    assert stream.snapshot.output == {"a": "on e"}
    assert stream.snapshot.text == '{"a": "on e"}'
    switched = [event for event in events if isinstance(event, Switched)]
    assert [event.withdrawn for event in switched] == [continues != "everything"]


async def test_max_tokens_counts_over_all_tries() -> None:
    for cut in range(1, 5):
        request = Request(conversation("?"), sampling=Sampling(max_tokens=4))
        backends = Fallback(words(cut), ScriptedBackend(WORDS))
        events = await events_of(backends, request)
        assert text_of(events) == "one two three four"
        assert done_of(events).finish_reason == "length"


async def test_usage_is_that_of_all_tries_with_each_prompt_as_it_was_sent() -> None:
    request = Request(conversation("a b c"))
    done = done_of(await events_of(Fallback(words(2), words(4), ScriptedBackend(WORDS)), request))
    assert done.usage is not None
    assert done.usage.completion_tokens == 6
    assert done.usage.prompt_tokens == 3 + (3 + 2) + (3 + 4)


async def test_backends_take_turns_as_long_as_each_brings_the_answer_further() -> None:
    first = Cutting(ScriptedBackend(WORDS), 2, times=99)
    second = Cutting(ScriptedBackend(WORDS), 2, times=99)
    events = await events_of(Fallback(first, second), ASK)
    assert text_of(events) == WORDS
    assert len(first.requests) + len(second.requests) >= 6


async def test_backends_that_bring_it_no_further_are_each_asked_once() -> None:
    first, second = (Cutting(ScriptedBackend(WORDS), 1, times=99) for _ in range(2))
    with pytest.raises(StreamInterrupted):
        await events_of(Fallback(first, second), ASK)
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_one_backend_alone_goes_on_by_itself() -> None:
    only = Cutting(ScriptedBackend(WORDS), 3)
    assert text_of(await events_of(Fallback(only), ASK)) == WORDS
    assert len(only.requests) == 2


async def test_the_total_deadline_is_one_over_all_tries() -> None:
    stalling = [ScriptedBackend([60.0, "late"]) for _ in range(3)]
    request = Request(conversation("?"), deadlines=Deadlines(first_token=0.15, total=0.2))
    with pytest.raises(DeadlineExceeded) as caught:
        await events_of(Fallback(*stalling), request)
    assert caught.value.phase == "total"
    assert [len(backend.requests) for backend in stalling] == [1, 1, 0]


async def test_a_backend_that_keeps_no_deadlines_is_left_all_the_same() -> None:
    class Deaf(ScriptedBackend):
        def open(self, request: Request) -> Any:
            return super().open(replace(request, deadlines=Deadlines(None, None, None, None)))

    deaf = Deaf(["one", 60.0, " two"])
    request = Request(conversation("?"), deadlines=Deadlines(idle=0.05))
    assert text_of(await events_of(Fallback(deaf, ScriptedBackend("one two")), request)) == "one two"
    assert deaf.running == 0


async def test_events_that_keep_the_deadlines_by_themselves_have_no_second_timer_once_they_answer() -> None:
    class Own(ScriptedBackend):
        @asynccontextmanager
        async def open(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
            async with super().open(replace(request, deadlines=Deadlines(None, None, None, None))) as events:
                vars(events)["kept_deadlines"] = request.deadlines  # a promise that is not kept, so that it can be seen
                yield events

    late = ["one", 0.06, " two"]
    idle, first = Deadlines(idle=0.03), Deadlines(first_token=0.03)
    other = ScriptedBackend(*["one two"] * 2)
    assert text_of(await events_of(Fallback(Own(late), other), Request(conversation("?"), deadlines=idle))) == "one two"
    assert not other.requests
    await events_of(Fallback(Own([0.06, *late]), other), Request(conversation("?"), deadlines=first))
    assert len(other.requests) == 1


async def test_a_backend_that_failed_again_and_again_rests_and_is_then_tried_by_one_request() -> None:
    answers: list[Any] = [[ServerFault("broken")]] * 2 + ["well again"]
    first, second = ScriptedBackend(*answers), ScriptedBackend("second")
    backends = Fallback(first, second, breaker=Breaker(failures=2, rest=0.2))
    texts = [text_of(await events_of(backends, ASK)) for _ in range(4)]
    assert texts == ["second"] * 4
    assert len(first.requests) == 2
    await anyio.sleep(0.25)
    together: list[str] = []

    async def ask() -> None:
        together.append(text_of(await events_of(backends, ASK)))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
    assert sorted(together) == ["second"] * 4 + ["well again"]
    assert text_of(await events_of(backends, ASK)) == "well again"


async def test_a_backend_that_asks_to_be_left_alone_is() -> None:
    first, second = ScriptedBackend([Overloaded("busy", retry_after=60)], "never"), ScriptedBackend("second")
    backends = Fallback(first, second)
    assert [text_of(await events_of(backends, ASK)) for _ in range(2)] == ["second"] * 2
    assert len(first.requests) == 1


async def test_when_all_rest_the_error_tells_when_to_come_again() -> None:
    backends = Fallback(words(0), breaker=Breaker(failures=1, rest=40))
    with pytest.raises(ServerFault):
        await events_of(backends, ASK)
    with pytest.raises(Overloaded) as caught:
        await events_of(backends, ASK)
    assert caught.value.retry_after == pytest.approx(40, abs=5)


async def test_a_backend_that_cannot_start_is_left_out_and_the_first_error_stands_when_none_can() -> None:
    class Broken(ScriptedBackend):
        async def start(self) -> None:
            raise ModelRetired("gone")

    async with Llama4(Fallback(Broken(), ScriptedBackend("b"))) as llama:
        assert (await llama.chat("?")).text == "b"
    with pytest.raises(ModelRetired):
        async with Llama4(Fallback(Broken(), Broken())):
            pass


async def test_nothing_runs_behind_a_request_that_was_left_or_switched() -> None:
    first, second = Cutting(ScriptedBackend(WORDS), 2), ScriptedBackend(WORDS, pause=0.01)
    async with Fallback(first, second).open(ASK) as events:
        async for event in events:
            if isinstance(event, TextDelta) and event.text == " three":
                assert (first.running, second.running) == (0, 1)
                break
    assert second.running == 0


async def test_names_stand_for_backends_and_anything_else_is_refused() -> None:
    assert Fallback("http://127.0.0.1:1/v1").members.all[0].name == "http"
    with pytest.raises(InvalidRequest, match="at least one"):
        Fallback()
    with pytest.raises(InvalidRequest, match="holds backends"):
        Fallback(7)  # type: ignore[arg-type]


async def test_one_object_serves_several_clients_until_the_last_one_leaves() -> None:
    shared = Fallback(ScriptedBackend("a"))
    async with Llama4(shared) as first:
        async with Llama4(shared) as second:
            assert (await second.chat("?")).text == "a"
        assert (await first.chat("?")).text == "a"
    with pytest.raises(ServerFault, match="closed"):
        await events_of(shared, ASK)


async def test_wrappers_nest() -> None:
    inner: Backend = Fallback(words(2), words(0), switches=1)
    events = await events_of(Fallback(inner, ScriptedBackend(WORDS)), ASK)
    assert text_of(events) == WORDS


async def test_backends_that_always_bring_it_a_little_further_and_break_come_to_an_end() -> None:
    endless = [Cutting(ScriptedBackend("more and more " * 9), 2, times=99) for _ in range(2)]
    with pytest.raises(StreamInterrupted):
        await events_of(Fallback(*endless, switches=5), ASK)
    assert sum(len(backend.requests) for backend in endless) == 6
