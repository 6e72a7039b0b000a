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
from routing.failing import events_of
from routing.test_limited import ask, simulated


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


def test_a_clock_that_steps_back_takes_nothing_away() -> None:
    rate = Rate(60, burst=5, least=1, now=100.0)
    rate.take(2, 100.0)
    assert rate.wait_for(3, 40.0) == 0
    assert rate.wait_for(4, 40.0) == pytest.approx(1)
    assert rate.wait_for(4, 101.0) == 0
