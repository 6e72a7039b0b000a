"""A queue that is fair between tenants and priorities, by weight and by cost. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
_Flow: TypeAlias = tuple[str, int]  # a tenant and a priority

_STEEPEST = 8  # priorities beyond this count as this one
_LEAST_SHARE = 1 / 8  # of an equal share, which the lowest priority gets beside any number of higher ones


@dataclass(slots=True, order=True)
class _Entry(Generic[T]):
    finish: float
    number: int
    item: T = field(compare=False)
    cost: float = field(compare=False)
    flow: _Flow = field(compare=False)


@dataclass(slots=True)
class _Backlog(Generic[T]):
    entries: deque[_Entry[T]] = field(default_factory=deque[_Entry[T]])  # in their order; removed ones too
    finish: float = 0.0  # of the last of them


class FairQueue(Generic[T]):
    """Self-clocked fair queueing (Golestani 1994): each tenant gets a share by its priority, and none is starved.

    A priority higher by one gets twice the share, but each priority of each tenant at least an eighth of an equal one:
    its first item is served once eight times that item's cost went to every other that waits. Within one tenant and
    priority, first come is first served.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry[T]] = []
        self._waiting: dict[int, _Entry[T]] = {}  # by number, those of `_entries` that were not removed
        self._clock = 0.0  # of what was served last
        self._served = 0.0  # cost of all that was served
        self._flows: dict[_Flow, _Backlog[T]] = {}
        self._overdue: list[tuple[float, int]] = []  # of the first of each flow: when, and its number; old ones too
        self._numbers = itertools.count()
        self.cost = 0.0
        """Cost of all that waits."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: T, *, tenant: str, priority: int, cost: float) -> int:
        """Add an item; return the number by which it can be taken out again."""
        flow = _flow(tenant, priority)
        entry = _Entry(self._finish(flow, cost), next(self._numbers), item, cost, flow)
        backlog = self._flows.setdefault(flow, _Backlog[T]())
        backlog.entries.append(entry)
        backlog.finish = entry.finish
        heapq.heappush(self._entries, entry)
        self._waiting[entry.number] = entry
        self.cost += cost
        if len(backlog.entries) == 1:
            self._leads(entry)
        return entry.number

    def ahead_of(self, *, tenant: str, priority: int, cost: float) -> tuple[int, float]:
        """Return how many items would be served before a new one, and their cost."""
        finish = self._finish(_flow(tenant, priority), cost)
        ahead = [entry.cost for entry in self._waiting.values() if entry.finish <= finish]
        return len(ahead), sum(ahead)

    def remove(self, number: int) -> None:
        """Take an item out that shall not be served any more."""
        if (entry := self._waiting.get(number)) is not None:
            self._forget(entry)

    def peek(self) -> T | None:
        """Return the item that is served next; None when nothing waits."""
        return self._next().item if self._waiting else None

    def pop(self) -> T:
        """Take the item out that is served next.

        Raises:
            IndexError: Nothing waits.
        """
        entry = self._next()
        if entry is self._entries[0]:  # one that was overdue leaves the others their places
            self._clock = entry.finish
        self._served += entry.cost
        self._forget(entry)
        return entry.item

    def _next(self) -> _Entry[T]:
        if self._overdue and self._overdue[0][0] <= self._served:
            return self._waiting[self._overdue[0][1]]
        return self._entries[0]

    def _finish(self, flow: _Flow, cost: float) -> float:
        backlog = self._flows.get(flow)
        return max(self._clock, backlog.finish if backlog else 0.0) + cost / 2.0 ** flow[1]

    def _leads(self, entry: _Entry[T]) -> None:
        """Take note that an item is the first of its flow from now on."""
        heapq.heappush(self._overdue, (self._served + len(self._flows) * entry.cost / _LEAST_SHARE, entry.number))

    def _forget(self, entry: _Entry[T]) -> None:
        del self._waiting[entry.number]
        self.cost = self.cost - entry.cost if self._waiting else 0.0
        entries = self._flows[entry.flow].entries
        if entries[0] is entry:
            while entries and entries[0].number not in self._waiting:
                entries.popleft()
            if entries:
                self._leads(entries[0])
        if not entries:  # what it did not get is not held against it
            del self._flows[entry.flow]
        self._drop_gone()

    def _drop_gone(self) -> None:
        while self._entries and self._entries[0].number not in self._waiting:
            heapq.heappop(self._entries)
        while self._overdue and self._overdue[0][1] not in self._waiting:
            heapq.heappop(self._overdue)
        if not self._entries:
            self._clock = self._served = 0.0


def _flow(tenant: str, priority: int) -> _Flow:
    return tenant, max(-_STEEPEST, min(priority, _STEEPEST))
