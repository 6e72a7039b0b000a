"""The one crossing between the engine's thread and the event loop.

Events go from the thread to the loop in mailboxes, all mailboxes of one step in a single call. A mailbox holds a
bounded number of events: a request whose mailbox is full gets no step.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import TYPE_CHECKING, cast

from llama4sdk.errors import LlamaError
from llama4sdk.events import Event
from llama4sdk.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    import trio.lowlevel

MailboxEvent = Event | LlamaError


class EventLoop:
    """An event loop, asyncio's or trio's, for calls from other threads; made on it by `current`."""

    def __init__(self, identity: object, call: Callable[[Callable[[], None]], object], gone: type[Exception]) -> None:
        self._identity = identity
        self._call = call
        self._gone = gone

    @classmethod
    def current(cls) -> EventLoop:
        """Return the running loop."""
        trio = sys.modules.get("trio")
        if trio is not None and _runs_in_trio(trio):
            token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
            return cls(token, token.run_sync_soon, trio.RunFinishedError)
        loop = asyncio.get_running_loop()
        return cls(loop, loop.call_soon_threadsafe, RuntimeError)

    def is_same(self, other: EventLoop) -> bool:
        """Whether both are one loop."""
        return self._identity is other._identity

    def call(self, function: Callable[[], None]) -> bool:
        """Schedule a call on the loop; return False when the loop is closed."""
        try:
            self._call(function)
        except self._gone:
            return False
        return True


def _runs_in_trio(trio: ModuleType) -> bool:
    try:
        return cast("object", trio.lowlevel.current_task()) is not None
    except RuntimeError:
        return False


class Mailbox:
    """The events of one request, between the engine's thread and their reader.

    Args:
        room: Events that may wait here before the request waits for its reader.
        wake: Called when a reader has caught up; from any thread.
    """

    def __init__(self, room: int, wake: Callable[[], None]) -> None:
        self._room = room
        self._wake = wake
        self._sent = 0  # written by the engine's thread only
        self._taken = 0  # written by the loop only
        self._events: deque[MailboxEvent] = deque()
        self._arrival = Wakeup()

    def lags(self, *, lagged: bool) -> bool:
        """Whether the reader is so far behind that the request waits; a waiting one waits until half is read."""
        waiting = self._sent - self._taken
        return waiting > self._room // 2 if lagged else waiting >= self._room

    def count(self, events: int) -> None:
        """Count events that are being sent; the engine calls it before it posts them."""
        self._sent += events

    def deliver(self, events: Sequence[MailboxEvent]) -> None:
        """Add events; on the loop only."""
        self._events.extend(events)
        self._arrival.wake()

    async def take(self) -> MailboxEvent:
        """Wait for the next event; on the loop only, one reader at a time."""
        while not self._events:
            await self._arrival.wait()
        event = self._events.popleft()
        self._taken += 1
        if self._sent - self._taken == self._room // 2:
            self._wake()
        return event


class Outbox:
    """Collects the events of one step and hands them to the loop in one call."""

    def __init__(self) -> None:
        self._events: dict[Mailbox, list[MailboxEvent]] = {}

    def put(self, mailbox: Mailbox, event: MailboxEvent) -> None:
        """Add an event for a mailbox."""
        self._events.setdefault(mailbox, []).append(event)

    def send(self, loop: EventLoop) -> bool:
        """Hand everything over; return False when the loop is closed."""
        if not self._events:
            return True
        events, self._events = self._events, {}
        for mailbox, own in events.items():
            mailbox.count(len(own))

        def deliver() -> None:
            for mailbox, own in events.items():
                mailbox.deliver(own)

        return loop.call(deliver)
