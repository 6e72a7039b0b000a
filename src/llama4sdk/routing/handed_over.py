"""The events of a backend, read by a task of their own and handed over to a reader in another."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from llama4sdk.wakeup import Wakeup

if TYPE_CHECKING:
    from llama4sdk.events import Event

_ROOM = 32  # events that may wait


class HandedOver:
    """A bounded queue of events, with an error at its end."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._arrived = Wakeup()
        self._taken = Wakeup()

    async def put(self, event: Event) -> None:
        """Add an event; waits while the reader is behind."""
        self._events.append(event)
        self._arrived.wake()
        while len(self._events) >= _ROOM:
            await self._taken.wait()

    def end(self, error: BaseException | None = None) -> None:
        """End the events, with an error for their reader or without one."""
        self._ended, self._error = True, error
        self._arrived.wake()

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
            await self._arrived.wait()
        event = self._events.popleft()
        if len(self._events) == _ROOM - 1:
            self._taken.wake()
        return event
