"""`Hedged` sends a second request where the first is slow to begin, and cancels the slower one."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from llama4sdk import (
    Deadlines,
    InvalidRequest,
    Llama4,
    Request,
    ServerFault,
    Started,
    Switched,
    TextDelta,
    Unreachable,
    Usage,
)
from llama4sdk.backend import Metered
from llama4sdk.messages import conversation
from llama4sdk.routing import Hedged
from llama4sdk.routing.hedging import Budget, FirstTokenLatency
from llama4sdk.testing import ScriptedBackend
from routing.failing import events_of, text_of, until

ASK = Request(conversation("?"))


async def rest(*backends: ScriptedBackend) -> None:
    await until(lambda: not any(backend.running for backend in backends))


async def test_a_first_request_that_answers_in_time_stays_alone() -> None:
    first, second = ScriptedBackend("quick words"), ScriptedBackend("never")
    assert text_of(await events_of(Hedged(first, second, after=30.0), ASK)) == "quick words"
    assert not second.requests


async def test_a_slow_first_request_loses_to_the_second_and_is_stopped_before_the_rest_is_read() -> None:
    first, second = ScriptedBackend([60.0, "late"]), ScriptedBackend("in time for it")
    async with Hedged(first, second, after=0.02).open(ASK) as events:
        seen: list[object] = []
        async for event in events:
            seen.append(event)
            if isinstance(event, TextDelta):
                assert first.running == 0
    assert [type(event) for event in seen][:3] == [Started, Switched, TextDelta]
    assert "".join(event.text for event in seen if isinstance(event, TextDelta)) == "in time for it"
    assert second.running == 0


async def test_a_second_request_that_is_slower_still_is_cancelled_at_once() -> None:
    first, second = ScriptedBackend([0.2, "first", 0.3, " goes on"]), ScriptedBackend([60.0, "late"])
    async with Hedged(first, second, after=0.02).open(ASK) as events:
        async for event in events:
            if isinstance(event, TextDelta) and event.text == "first":
                assert len(second.requests) == 1
                await rest(second)
                assert first.running == 1


async def test_one_backend_alone_gets_the_second_request_too() -> None:
    only = ScriptedBackend([60.0, "late"], "in time")
    assert text_of(await events_of(Hedged(only, after=0.02), ASK)) == "in time"
    assert only.running == 0


async def test_where_the_first_fails_the_second_answers_if_it_was_asked_and_else_the_error_stands() -> None:
    failing = ScriptedBackend([0.1, ServerFault("broken")])
    assert text_of(await events_of(Hedged(failing, ScriptedBackend([0.3, "well"]), after=0.02), ASK)) == "well"
    with pytest.raises(ServerFault, match="broken"):
        await events_of(Hedged(ScriptedBackend([ServerFault("broken")]), ScriptedBackend("well"), after=30.0), ASK)


async def test_where_both_fail_the_first_error_stands_and_where_the_second_fails_the_first_goes_on() -> None:
    second = ScriptedBackend([Unreachable("second")])
    with pytest.raises(ServerFault, match="first"):
        await events_of(Hedged(ScriptedBackend([0.1, ServerFault("first")]), second, after=0.02), ASK)
    assert text_of(await events_of(Hedged(ScriptedBackend([0.1, "well"]), second, after=0.02), ASK)) == "well"


async def test_a_failure_of_the_winner_is_the_readers() -> None:
    winner = ScriptedBackend(["half", ServerFault("broken")])
    with pytest.raises(ServerFault, match="broken"):
        await events_of(Hedged(ScriptedBackend([60.0, "late"]), winner, after=0.02), ASK)


class Counting(ScriptedBackend):
    """Tells while it answers what the answer took."""

    def open(self, request: Request) -> Any:
        return CountedBlock(super().open(request))


class CountedBlock:
    def __init__(self, block: Any) -> None:
        self.usage = Usage(3, 4)
        self._block = block

    async def __aenter__(self) -> Any:
        return await self._block.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        await self._block.__aexit__(*raised)


async def test_the_tokens_so_far_are_those_of_the_request_that_answers() -> None:
    block = Hedged(ScriptedBackend([60.0, "late"]), Counting("in time"), after=0.0).open(ASK)
    async with block as events:
        while not isinstance(await anext(events), TextDelta):
            pass
        assert isinstance(block, Metered)
        assert block.usage == Usage(3, 4)


async def test_leaving_early_stops_both() -> None:
    first, second = ScriptedBackend([60.0, "late"]), ScriptedBackend([60.0, "later"])
    async with Llama4(Hedged(first, second, after=0.02)) as llama, llama.stream("?") as stream:
        await until(lambda: bool(second.requests))
        await stream.cancel()
        assert (first.running, second.running) == (0, 0)


async def test_a_slow_reader_of_the_second_request_holds_it_back() -> None:
    second = ScriptedBackend("word " * 200)
    async with Hedged(ScriptedBackend([60.0]), second, after=0.0).open(ASK) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                await anyio.sleep(0.05)
                break
        assert second.running == 1
    assert second.running == 0


async def test_second_requests_stay_within_their_budget() -> None:
    slow, second = ScriptedBackend([0.03, "slow"]), ScriptedBackend([0.06, "slower"])
    backends = Hedged(slow, second, after=0.005, budget=0.1)
    for _ in range(40):
        await events_of(backends, Request(conversation("?"), deadlines=Deadlines(total=20)))
    assert 10 <= len(second.requests) <= 10 + 4


def test_a_percentile_is_learnt_from_waits_and_is_no_limit_before() -> None:
    latency = FirstTokenLatency("p90")
    for tenth in range(19):
        latency.add(tenth / 10)
    assert latency.limit == float("inf")
    latency.add(1.9)
    assert latency.limit == pytest.approx(1.8)
    for _ in range(200):
        latency.add(0.5)
    assert latency.limit == pytest.approx(0.5)


@pytest.mark.parametrize("after", ["95", "p", "p100", "fast", -1.0, float("nan")])
def test_a_wait_that_makes_no_sense_is_refused(after: float | str) -> None:
    with pytest.raises(InvalidRequest):
        FirstTokenLatency(after)


def test_a_budget_of_nothing_allows_nothing() -> None:
    budget = Budget(0)
    budget.earn()
    assert not budget.spend()
    with pytest.raises(InvalidRequest):
        Budget(1.5)
