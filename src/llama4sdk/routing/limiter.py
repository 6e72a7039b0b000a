"""The limits that requests to one account share: rates, concurrency, and the queue before them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from llama4sdk.checks import check_number, check_whole
from llama4sdk.errors import Overloaded
from llama4sdk.routing.breaker import LONGEST_REST
from llama4sdk.routing.fair_queue import FairQueue
from llama4sdk.routing.rates import Rate

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Waiter:
    """A request in the queue."""

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.turn = anyio.Event()
        self.admitted = False


class Limiter:
    """Admits requests by rate and number; several `Limited` wrappers in one event loop may share it.

    Args:
        requests_per_minute: Most requests in a minute; None for no limit.
        tokens_per_minute: Most tokens in a minute, of prompts and answers.
        concurrency: Most requests at the same time.
        burst: Seconds of a rate that may be saved up while nothing is sent.
        max_wait: Most seconds that a request waits; one that would wait longer is refused at once.

    Raises:
        InvalidRequest: For limits out of range.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        concurrency: int | None = None,
        *,
        burst: float = 1.0,
        max_wait: float = 60.0,
    ) -> None:
        check_number("requests_per_minute", requests_per_minute, 0, math.inf, above=True)
        check_number("tokens_per_minute", tokens_per_minute, 0, math.inf, above=True)
        check_whole("concurrency", concurrency, 1)
        check_number("burst", burst, 0, 60, above=True)
        check_number("max_wait", max_wait, 0, math.inf)
        self._asked = (requests_per_minute, tokens_per_minute, burst)
        self._concurrency = concurrency
        self._max_wait = max_wait
        self._running = 0
        self._paused_until = 0.0
        self._queue: FairQueue[_Waiter] = FairQueue()
        self._rates: tuple[Rate, Rate] | None = None
        self.mean_answer = 0.0
        """Tokens of an answer, as a mean in which the last ones count most."""
        self._timekeeper: _Waiter | None = None  # the head of the queue, which wakes when its turn has come

    @property
    def counts_tokens(self) -> bool:
        """Whether requests have to be counted before they are sent."""
        return self._asked[1] is not None

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that were admitted and have not ended."""
        return self._running

    async def admit(self, tokens: float, *, tenant: str, priority: int, patience: float) -> None:
        """Wait until a request may be sent; `release` ends it.

        Args:
            tokens: Tokens that it may take.
            tenant: Whose it is: tenants get equal shares.
            priority: Larger gets a larger share.
            patience: Seconds that its deadlines leave it.

        Raises:
            Overloaded: It would wait, or has waited, longer than that or than `max_wait`.
        """
        begun = anyio.current_time()
        most = max(min(self._max_wait, patience), 0.0)
        waiter, cost = _Waiter(tokens), max(tokens, 1.0)
        if self._expected_wait(tokens, begun, len(self._queue), self._queue.cost) > most:
            ahead = self._queue.ahead_of(tenant=tenant, priority=priority, cost=cost)  # its turn may come earlier
            if (wait := self._expected_wait(tokens, begun, *ahead)) > most:
                raise _overloaded(wait, most)
        number = self._queue.put(waiter, tenant=tenant, priority=priority, cost=cost)
        try:
            await self._wait(waiter, begun + most)
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self._queue.remove(number)
            if waiter.admitted:
                self.release(tokens, 0)
            self._wake_next()
            raise
        if not waiter.admitted:
            self._queue.remove(number)
            self._wake_next()
            ahead = self._queue.ahead_of(tenant=tenant, priority=priority, cost=cost)
            raise _overloaded(self._expected_wait(tokens, anyio.current_time(), *ahead), most)

    def release(self, reserved: float, used: float) -> None:
        """Count a request that has ended, with the tokens that it took in the end."""
        self._running -= 1
        now = anyio.current_time()
        self._levels(now)[1].take(used - reserved, now)
        self._admit_due(now)

    def answered(self, tokens: int) -> None:
        """Take note that the server answered a request, with so many tokens."""
        now = anyio.current_time()
        self.mean_answer += (tokens - self.mean_answer) * (0.1 if self.mean_answer else 1.0)
        for rate in self._levels(now):
            rate.answered(now)

    def refused(self, retry_after: float | None) -> None:
        """Take note that the server refused a request for its rate: wait as long as it asks, and go slower."""
        now = anyio.current_time()
        self._pause(now, retry_after or 0.0)
        for rate in self._levels(now):
            rate.refused(now)

    def told(self, limits: Mapping[str, float]) -> None:
        """Take in the limits that a server names.

        Args:
            limits: Under `requests` and `tokens` those of a minute, under `wait` the seconds until more may be sent
                where nothing is left now.
        """
        now = anyio.current_time()
        for rate, name in zip(self._levels(now), ("requests", "tokens"), strict=True):
            rate.allow(limits.get(name, 0.0), now)
        self._pause(now, limits.get("wait", 0.0))

    def _pause(self, now: float, seconds: float) -> None:
        self._paused_until = max(self._paused_until, now + min(seconds, LONGEST_REST))

    async def _wait(self, waiter: _Waiter, until: float) -> None:
        """Wait until a request is admitted, or the time has come to give it up."""
        while True:
            now = anyio.current_time()
            self._admit_due(now)
            if waiter.admitted or now >= until:
                return
            due = self._due(waiter, now) if waiter is self._timekeeper else math.inf
            with anyio.CancelScope(deadline=min(due, until)):
                await waiter.turn.wait()
            if not waiter.admitted:
                waiter.turn = anyio.Event()

    def _levels(self, now: float) -> tuple[Rate, Rate]:
        if self._rates is None:  # the event loop's clock is known only now
            requests, tokens, burst = self._asked
            self._rates = (
                Rate(requests, burst=burst, least=1.0, now=now),
                Rate(tokens, burst=burst, least=1.0, now=now),
            )
        return self._rates

    def _expected_wait(self, tokens: float, now: float, ahead: int, ahead_tokens: float) -> float:
        requests, by_tokens = self._levels(now)
        return max(
            self._paused_until - now,
            requests.wait_for(1, now, ahead=ahead),
            by_tokens.wait_for(tokens, now, ahead=ahead_tokens),
        )

    def _due(self, waiter: _Waiter, now: float) -> float:
        """Return when the head of the queue may be sent, as far as time alone decides."""
        if self._concurrency is not None and self._running >= self._concurrency:
            return math.inf
        requests, tokens = self._levels(now)
        return max(self._paused_until, now + max(requests.wait_for(1, now), tokens.wait_for(waiter.cost, now)))

    def _admit_due(self, now: float) -> None:
        while (waiter := self._queue.peek()) is not None and self._due(waiter, now) <= now + 1e-9:
            self._queue.pop()
            waiter.admitted = True
            self._running += 1
            requests, tokens = self._levels(now)
            requests.take(1, now)
            tokens.take(waiter.cost, now)
            waiter.turn.set()
        self._wake_next()

    def _wake_next(self) -> None:
        waiter = self._queue.peek()
        if waiter is not self._timekeeper:
            self._timekeeper = waiter
            if waiter is not None:
                waiter.turn.set()


def _overloaded(wait: float, most: float) -> Overloaded:
    wait = max(wait, 1.0)
    return Overloaded(
        f"The limits leave no room for this request within {most:.3g} s; try again in {wait:.3g} s.",
        retry_after=wait,
    )
