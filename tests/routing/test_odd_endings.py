"""Answers that end oddly and wrappers around wrappers: still one answer, one error, and nothing left behind."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from llama4sdk import (
    DeadlineExceeded,
    Deadlines,
    Done,
    Event,
    Llama4,
    LlamaError,
    Overloaded,
    Request,
    Sampling,
    ServerFault,
    StreamInterrupted,
    Switched,
    TextDelta,
    Usage,
    UsageUpdate,
)
from llama4sdk.backend import Backend
from llama4sdk.messages import conversation
from llama4sdk.routing import Balanced, Breaker, Fallback, Hedged, Limited
from llama4sdk.testing import ScriptedBackend
from routing.failing import done_of, events_of, text_of, until

WORDS = "one two three four five six"
BROKEN = ServerFault("broken")
WRAPPERS: dict[str, Callable[..., Backend]] = {
    "fallback": Fallback,
    "balanced": Balanced,
    "hedged": lambda *backends: Hedged(*backends, after=0.01),
    "limited": lambda *backends: Limited(backends[0], 6000),
}


def ask(prompt: str = "?", deadlines: Deadlines | None = None, sampling: Sampling | None = None) -> Request:
    return Request(conversation(prompt), deadlines=deadlines or Deadlines(), sampling=sampling or Sampling())


@pytest.mark.parametrize("text", ["👩\u200d👩\u200d👧 ok", "e\u0301 \ufeff x", '{"age": 36.5e1, "a": "\\u00e9"}'])
async def test_cut_between_any_two_characters_the_answer_is_whole(text: str) -> None:
    for cut in range(1, len(text)):
        first = ScriptedBackend([TextDelta(text[:cut]), BROKEN])
        assert text_of(await events_of(Fallback(first, ScriptedBackend(text)), ask())) == text


async def test_half_a_character_does_not_keep_the_answer_from_going_on() -> None:
    second = ScriptedBackend(" on")
    events = await events_of(Fallback(ScriptedBackend([TextDelta("a\ud83d"), BROKEN]), second), ask())
    assert text_of(events) == "a\ud83d on"
    assert second.requests[0].answer_so_far == "a\N{REPLACEMENT CHARACTER}"


async def test_a_stop_string_that_begins_before_the_cut_ends_the_answer_behind_it() -> None:
    sampling = Sampling(stop=("three",))
    first = ScriptedBackend(["one two", BROKEN])
    assert (
        text_of(await events_of(Fallback(first, ScriptedBackend(WORDS)), ask(sampling=sampling))).strip() == "one two"
    )


async def test_an_answer_whose_last_token_was_shown_when_it_broke_is_complete() -> None:
    second = ScriptedBackend(WORDS)
    events = await events_of(
        Fallback(ScriptedBackend(["one two", BROKEN]), second), ask(sampling=Sampling(max_tokens=2))
    )
    assert (text_of(events), done_of(events).finish_reason) == ("one two", "length")
    assert not second.requests


async def test_counts_that_a_backend_sends_again_and_again_are_not_added_up() -> None:
    counts = [UsageUpdate(Usage(5, 1)), UsageUpdate(Usage(5, 1))]
    second = ScriptedBackend(["one", *counts, " two", Done("stop", Usage(4, 1))])
    events = await events_of(Fallback(ScriptedBackend(["one", BROKEN]), second), ask("a b c"))
    assert [event.usage for event in events if isinstance(event, UsageUpdate)] == [Usage(5 + 4, 1 + 1)] * 2
    assert done_of(events).usage == Usage(4 + 3, 1 + 1)


async def test_after_a_first_token_that_did_not_come_the_next_backend_has_its_own_time() -> None:
    class Slow(ScriptedBackend):
        def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
            return self._connect(super().open(request))

        @asynccontextmanager
        async def _connect(
            self, block: AbstractAsyncContextManager[AsyncIterator[Event]]
        ) -> AsyncGenerator[AsyncIterator[Event]]:
            await anyio.sleep(0.05)
            async with block as events:
                yield events

    deadlines = Deadlines(first_token=0.1)
    for second in (Slow(WORDS), Limited(Slow(WORDS), 6000), Fallback(Fallback(Slow(WORDS)))):
        events = await events_of(Fallback(ScriptedBackend([60.0]), second), ask(deadlines=deadlines))
        assert text_of(events) == WORDS


async def test_the_shortest_total_deadline_of_wrappers_around_wrappers_holds() -> None:
    slow = [ScriptedBackend([60.0]) for _ in range(3)]
    nested = Fallback(Fallback(*slow[:2]), Limited(slow[2], 6000))
    with pytest.raises(DeadlineExceeded) as caught:
        await events_of(nested, ask(deadlines=Deadlines(first_token=0.1, total=0.15)))
    assert caught.value.phase == "total"
    assert [backend.running for backend in slow] == [0, 0, 0]


async def test_wrappers_five_deep_give_one_answer_with_the_tokens_of_both_tries() -> None:
    inner: Backend = Fallback(ScriptedBackend(["one two", BROKEN]), ScriptedBackend(WORDS))
    deep = Fallback(Hedged(Limited(Balanced(Fallback(inner)), 6000), after=5.0))
    async with Llama4(deep) as llama:
        reply = await llama.chat("a b")
    assert (reply.text, reply.usage.prompt_tokens, reply.usage.completion_tokens) == (WORDS, 2 + 4, 6)


@pytest.mark.parametrize("name", list(WRAPPERS))
async def test_closing_under_a_stream_ends_it(name: str) -> None:
    backends = [ScriptedBackend(WORDS, pause=0.05) for _ in range(2)]
    llama = Llama4(WRAPPERS[name](*backends))
    await llama.start()
    async with llama.stream("?") as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break
        with anyio.fail_after(20):
            await llama.aclose()
        assert [backend.running for backend in backends] == [0, 0]


async def test_answers_that_one_event_breaks_together_count_as_one_failure() -> None:
    breaks = [["one", 0.1, StreamInterrupted("The node is gone.")]] * 20
    backends = Fallback(ScriptedBackend(*breaks, WORDS))
    texts: list[str] = []

    async def run() -> None:
        texts.append(text_of(await events_of(backends, ask())))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(run)
        await until(lambda: backends.members.all[0].breaker.era > 0)
        tasks.start_soon(run)
    assert texts == [WORDS] * 21


@pytest.mark.parametrize("asked", [1e12, math.inf, math.nan, -5.0])
async def test_a_server_is_left_alone_for_an_hour_at_the_most(asked: float) -> None:
    told = Done("stop", Usage(1, 1), {"rate_limits": {"wait": asked}})
    busy = Overloaded("busy", retry_after=asked)
    wrappers: list[Backend] = [
        Fallback(ScriptedBackend([busy], "ok"), breaker=Breaker(failures=9)),
        Limited(ScriptedBackend([busy], "ok"), 6000, burst=60, max_wait=1),
        Limited(ScriptedBackend([told], "ok"), 6000, burst=60, max_wait=1),
    ]
    for wrapper in wrappers:
        waits: list[float] = []
        for _ in range(2):
            try:
                await events_of(wrapper, ask())
            except Overloaded as error:
                waits.append(error.retry_after or 0.0)
        if asked > 0:
            assert waits[-1] == pytest.approx(3600, abs=60)
        else:
            assert waits[1:] == []


async def test_two_that_wait_for_one_drained_backend_both_get_through() -> None:
    backends = [ScriptedBackend(WORDS, pause=0.01) for _ in range(2)]
    balanced = Balanced(*backends)
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(events_of, balanced, ask(f"question {number}"))
        await until(lambda: bool(backends[0].running))
        with anyio.fail_after(20):
            async with anyio.create_task_group() as drains:
                for backend in backends * 2:
                    drains.start_soon(balanced.drain, backend)


async def test_a_wrapper_whose_backends_were_all_removed_refuses_and_takes_new_ones() -> None:
    first = ScriptedBackend("a")
    async with Llama4(balanced := Balanced(first)) as llama:
        await balanced.members.remove(first)
        assert llama.capabilities.model == "script"
        with pytest.raises(Overloaded):
            await llama.chat("?")
        await balanced.members.add(ScriptedBackend("b"))
        assert (await llama.chat("?")).text == "b"


async def test_a_conversation_whose_backend_dies_moves_and_stays_where_it_went() -> None:
    backends = [ScriptedBackend(WORDS) for _ in range(3)]
    balanced = Balanced(*backends)
    await events_of(balanced, ask("a conversation"))
    home = next(backend for backend in backends if backend.requests)
    await home.aclose()
    for _ in range(3):
        assert text_of(await events_of(balanced, ask("a conversation"))) == WORDS
    assert sorted(len(backend.requests) for backend in backends if backend is not home) == [0, 3]


async def test_two_requests_that_are_ready_or_fail_at_the_same_moment_give_one_answer_or_one_error() -> None:
    for _ in range(10):
        first, second = ScriptedBackend([0.01, "aa bb"]), ScriptedBackend("cc dd")
        text = text_of(await events_of(Hedged(first, second, after=0.01, budget=1.0), ask()))
        assert text in ("aa bb", "cc dd")
        assert (first.running, second.running) == (0, 0)
        failing = ScriptedBackend([0.01, ServerFault("first")]), ScriptedBackend([ServerFault("second")])
        with pytest.raises(ServerFault, match="first"):
            await events_of(Hedged(*failing, after=0.01, budget=1.0), ask())


async def test_a_loser_that_fails_when_it_is_left_spoils_nothing() -> None:
    class Spiteful(ScriptedBackend):
        def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
            return self._spoilt(super().open(request))

        @asynccontextmanager
        async def _spoilt(
            self, block: AbstractAsyncContextManager[AsyncIterator[Event]]
        ) -> AsyncGenerator[AsyncIterator[Event]]:
            try:
                async with block as events:
                    yield events
            finally:
                raise RuntimeError("No!")

    late = Hedged(Spiteful([60.0]), ScriptedBackend("in time"), after=0.01)
    assert text_of(await events_of(late, ask())) == "in time"
    early = Hedged(ScriptedBackend([0.1, "first"]), Spiteful([60.0]), after=0.01)
    assert text_of(await events_of(early, ask())) == "first"


async def test_a_closed_wrapper_is_refused_in_another_event_loop_too() -> None:
    backends = Fallback(ScriptedBackend(WORDS))

    async def once() -> str:
        async with Llama4(backends) as llama:
            return (await llama.chat("?")).text

    assert await once() == WORDS
    with pytest.raises(LlamaError, match="closed"):
        await anyio.to_thread.run_sync(lambda: anyio.run(once))


async def test_what_is_shown_of_a_switch_names_the_reason() -> None:
    events = await events_of(Fallback(ScriptedBackend(["one", BROKEN]), ScriptedBackend(WORDS)), ask())
    (switched,) = (event for event in events if isinstance(event, Switched))
    assert switched.reason == "ServerFault: broken"
