"""The events of a backend, read by a task of their own and handed over to a reader in another."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from llama4sdk.events import Event

_ROOM = 32  # events that may wait


class HandedOver:
    """A bounded queue of events, with an error at its end."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._arrived: anyio.Event | None = None
        self._taken: anyio.Event | None = None

    async def put(self, event: Event) -> None:
        """Add an event; waits while the reader is behind."""
        self._events.append(event)
        self._wake()
        while len(self._events) >= _ROOM:
            self._taken = anyio.Event()
            await self._taken.wait()

    def end(self, error: BaseException | None = None) -> None:
        """End the events, with an error for their reader or without one."""
        self._ended, self._error = True, error
        self._wake()

    async def take(self) -> Event:
        """Return the next event.

        Raises:
            StopAsyncIteration: There is none any more.
        """
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._arrived = anyio.Event()
            await self._arrived.wait()
        event = self._events.popleft()
        if self._taken is not None and len(self._events) < _ROOM:
            self._taken.set()
            self._taken = None
        return event

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None
