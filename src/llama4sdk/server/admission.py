"""How many requests run: a limit for all, limits for each key, and the end of a server that shuts down."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from llama4sdk.server.failures import SHUTTING_DOWN, TOO_BUSY, ApiError, Failure

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from llama4sdk.server.options import KeyLimits

_RATE = "rate_limit_error"
_MINUTE = 60.0


class Admission:
    """Lets requests in, counts them, and cuts them off at the end.

    Args:
        most: Most requests at the same time.
        limits: Those of each key, in the order of the keys.
    """

    def __init__(self, most: int, limits: Iterable[KeyLimits]) -> None:
        self._most = most
        self._keys = [_KeyState(each) for each in limits]
        self._places: set[Place] = set()
        self._closing = False
        self._empty = anyio.Event()

    @property
    def running(self) -> int:
        """Requests that run."""
        return len(self._places)

    @property
    def closing(self) -> bool:
        """Whether no further request is let in."""
        return self._closing

    @contextmanager
    def admit(self, key: int | None) -> Generator[Place]:
        """Hold a place within a block.

        Args:
            key: Index of the request's key; None without keys.

        Raises:
            ApiError: Status 503 when there is no place, 429 when the key's limits are reached.
        """
        if self._closing:
            raise ApiError(SHUTTING_DOWN)
        if len(self._places) >= self._most:
            raise ApiError(TOO_BUSY)
        state = self._keys[key] if key is not None else None
        if state is not None:
            state.take()
        place = Place()
        self._places.add(place)
        try:
            yield place
        finally:
            self._places.discard(place)
            if state is not None:
                state.running -= 1
            if self._closing and not self._places:
                self._empty.set()

    def close(self) -> None:
        """Let no further request in."""
        self._closing = True
        if not self._places:
            self._empty.set()

    async def drain(self, seconds: float) -> None:
        """Let no further request in, wait until those that run have ended, and cut them off after some seconds."""
        self.close()
        with anyio.move_on_after(seconds):
            await self._empty.wait()
        for place in tuple(self._places):
            place.cut()


class Place:
    """The place of one running request; `cut` ends its work, and leaves it the time to say so."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.was_cut = False

    def cut(self) -> None:
        """End the request's work."""
        self.was_cut = True
        self.scope.cancel()


class _KeyState:
    """The requests of one key.

    Args:
        limits: Its limits.
    """

    def __init__(self, limits: KeyLimits) -> None:
        self._limits = limits
        self.running = 0
        self._left = float(limits.per_minute or 0)
        self._counted = -math.inf  # when `_left` was brought up to date

    def take(self) -> None:
        """Count a request that begins.

        Raises:
            ApiError: Status 429.
        """
        limits = self._limits
        if limits.running is not None and self.running >= limits.running:
            raise _limited(f"Rate limit reached: {limits.running} requests at the same time for this key.", 1)
        if limits.per_minute is not None:
            self._refill(limits.per_minute)
            if self._left < 1:
                wait = (1 - self._left) * _MINUTE / limits.per_minute
                raise _limited(f"Rate limit reached: {limits.per_minute} requests per minute for this key.", wait)
            self._left -= 1
        self.running += 1

    def _refill(self, per_minute: int) -> None:
        now = anyio.current_time()
        self._left = min(per_minute, self._left + (now - self._counted) * per_minute / _MINUTE)
        self._counted = now


def _limited(message: str, wait: float) -> ApiError:
    headers = {"retry-after": str(math.ceil(wait))}
    return ApiError(Failure(429, message, _RATE, code="rate_limit_exceeded", headers=headers))
