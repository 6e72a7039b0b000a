"""The queue before a limit: every tenant and priority gets its share, and none pays for what was not served."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest

from llama4sdk import Overloaded
from llama4sdk.routing import Limited
from llama4sdk.routing.fair_queue import FairQueue
from llama4sdk.routing.rates import Rate
from llama4sdk.testing import ScriptedBackend
from long_runs import often
from routing.failing import events_of
from routing.test_limited import ask, simulated

BUSY = often(20, 199)  # tasks


@pytest.mark.parametrize("modest", [{"salt": "modest"}, {"salt": "greedy", "priority": 5}])
def test_one_that_fills_the_queue_again_and_again_shuts_no_other_out(modest: dict[str, object]) -> None:
    served: Counter[str] = Counter()

    async def main() -> None:
        limited = Limited(ScriptedBackend("ok"), requests_per_minute=60, max_wait=6)

        async def greedy() -> None:
            while True:
                try:
                    await events_of(limited, ask(salt="greedy"))
                    served["greedy"] += 1
                except Overloaded:
                    served["refused"] += 1
                    await anyio.sleep(2)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(greedy)
            await anyio.sleep(10)
            for _ in range(5):
                await events_of(limited, ask(**modest))  # type: ignore[arg-type]
                served["modest"] += 1
            tasks.cancel_scope.cancel()
        assert (limited.limiter.waiting, limited.limiter.running) == (0, 0)

    simulated(main)
    assert served["modest"] == 5
    assert served["greedy"] > 8
    assert served["refused"] > 0


def test_requests_that_were_given_up_are_not_held_against_their_tenant() -> None:
    queue: FairQueue[str] = FairQueue()
    first = queue.put("other", tenant="other", priority=0, cost=1)
    for number in [queue.put("given up", tenant="hasty", priority=0, cost=5) for _ in range(100)]:
        queue.remove(number)
    assert (len(queue), queue.cost) == (1, 1)
    queue.put("hasty", tenant="hasty", priority=0, cost=0.5)
    assert queue.ahead_of(tenant="hasty", priority=0, cost=100) == (2, 1.5)
    assert queue.ahead_of(tenant="new", priority=0, cost=0.75) == (1, 0.5)
    assert [queue.pop(), queue.pop()] == ["hasty", "other"]
    queue.remove(first)
    assert (len(queue), queue.cost, queue.peek()) == (0, 0, None)


def test_within_a_tenant_first_come_is_first_served_also_after_some_left() -> None:
    queue: FairQueue[int] = FairQueue()
    numbers = [queue.put(item, tenant="", priority=0, cost=1) for item in range(6)]
    for number in (numbers[0], numbers[3], numbers[5]):
        queue.remove(number)
    queue.put(6, tenant="", priority=0, cost=1)
    assert [queue.pop() for _ in range(4)] == [1, 2, 4, 6]


@pytest.mark.parametrize(("low", "high"), [(0, 2), (0, 3), (0, 8), (-8, 8)])
def test_each_priority_more_doubles_the_share_and_the_lowest_keeps_an_eighth_of_an_equal_one(
    low: int, high: int
) -> None:
    queue: FairQueue[int] = FairQueue()
    served: Counter[int] = Counter()
    for priority in (low, high) * 3:
        queue.put(priority, tenant="", priority=priority, cost=1)
    for _ in range(1700):
        served[priority := queue.pop()] += 1
        queue.put(priority, tenant="", priority=priority, cost=1)
    share = max(1 / (1 + 2 ** (high - low)), 1 / 17)  # two wait: one in sixteen, and its own turn
    assert served[low] / 1700 == pytest.approx(share, rel=0.05)


def test_the_least_share_counts_by_cost_and_not_by_items() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("heavy", tenant="heavy", priority=-8, cost=100)
    for number in range(4):
        queue.put(str(number), tenant=str(number), priority=0, cost=1)
    served = 0
    while (item := queue.pop()) != "heavy" and served < 10_000:
        served += 1
        queue.put(item, tenant=item, priority=0, cost=1)
    assert 800 <= served <= 8 * 100 * 5 + 5


def test_among_many_tasks_of_the_highest_priority_one_of_the_lowest_is_served_too() -> None:
    waits: list[float] = []

    async def main() -> None:
        limited = Limited(ScriptedBackend("ok"), requests_per_minute=6000, max_wait=1000)

        async def busy(number: int) -> None:
            while True:
                await events_of(limited, ask(salt=str(number), priority=8))

        async with anyio.create_task_group() as tasks:
            for number in range(BUSY):
                tasks.start_soon(busy, number)
            await anyio.sleep(1)
            for _ in range(often(1, 3)):
                begun = anyio.current_time()
                await events_of(limited, ask(salt="patient", priority=-8))
                waits.append(anyio.current_time() - begun)
            tasks.cancel_scope.cancel()

    simulated(main)
    assert max(waits) <= (BUSY + 1) * 8 / 100 + 1
    assert min(waits) > BUSY / 100  # later than an equal share would be


def test_a_clock_that_steps_back_takes_nothing_away() -> None:
    rate = Rate(60, burst=5, least=1, now=100.0)
    rate.take(2, 100.0)
    assert rate.wait_for(3, 40.0) == 0
    assert rate.wait_for(4, 40.0) == pytest.approx(1)
    assert rate.wait_for(4, 101.0) == 0
