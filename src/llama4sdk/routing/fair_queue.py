"""A queue that is fair between tenants and priorities, by weight and by cost. Pure."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_STEEPEST = 8  # priorities beyond this count as this one


@dataclass(slots=True, order=True)
class _Entry(Generic[T]):
    finish: float
    number: int
    item: T = field(compare=False)
    cost: float = field(compare=False, default=0.0)


class FairQueue(Generic[T]):
    """Self-clocked fair queueing (Golestani 1994): each tenant gets a share by its priority, and none is starved.

    A priority higher by one gets twice the share; within one tenant and priority, first come is first served.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry[T]] = []
        self._gone: set[int] = set()
        self._numbers = itertools.count()
        self._clock = 0.0  # of what was served last
        self._last: dict[tuple[str, int], float] = {}
        self._costs: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._costs)

    @property
    def cost(self) -> float:
        """Cost of all that waits."""
        return sum(self._costs.values())

    def put(self, item: T, *, tenant: str, priority: int, cost: float) -> int:
        """Add an item; return the number by which it can be taken out again."""
        number = next(self._numbers)
        rank = max(-_STEEPEST, min(priority, _STEEPEST))
        flow = (tenant, rank)
        finish = max(self._clock, self._last.get(flow, 0.0)) + cost / 2.0**rank
        self._last[flow] = finish
        heapq.heappush(self._entries, _Entry(finish, number, item, cost))
        self._costs[number] = cost
        return number

    def remove(self, number: int) -> None:
        """Take an item out that shall not be served any more."""
        if self._costs.pop(number, None) is not None:
            self._gone.add(number)
            self._drop_gone()

    def peek(self) -> T | None:
        """Return the item that is served next; None when nothing waits."""
        return self._entries[0].item if self._entries else None

    def pop(self) -> T:
        """Take the item out that is served next.

        Raises:
            IndexError: Nothing waits.
        """
        entry = heapq.heappop(self._entries)
        self._clock = entry.finish
        del self._costs[entry.number]
        self._drop_gone()
        if not self._entries:
            self._last.clear()
            self._clock = 0.0
        return entry.item

    def _drop_gone(self) -> None:
        while self._entries and self._entries[0].number in self._gone:
            self._gone.discard(heapq.heappop(self._entries).number)
