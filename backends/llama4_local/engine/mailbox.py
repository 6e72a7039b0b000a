"""The one place where the engine's thread and the event loop meet.

Events go from the thread to the loop in mailboxes, all mailboxes of one step in a single call. A mailbox holds a
bounded number of events: the thread looks whether it is full before it works on a request again.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import anyio

from llama4sdk.errors import LlamaError
from llama4sdk.events import Event

if TYPE_CHECKING:
    from types import ModuleType

    import trio.lowlevel

MailboxEvent = Event | LlamaError


class EventLoop:
    """An event loop, asyncio's or trio's, as other threads see it; made on it by `current`."""

    def __init__(self, identity: object, call: Callable[[Callable[[], None]], object], gone: type[Exception]) -> None:
        self._identity = identity
        self._call = call
        self._gone = gone

    @classmethod
    def current(cls) -> EventLoop:
        """Return the loop that this code runs in."""
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
        """Have the loop call a function soon; return False when the loop is closed."""
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
        room: Events that may lie here before the request has to wait for its reader.
        wake: Tells the engine that a reader has caught up; may be called from any thread.
    """

    def __init__(self, room: int, wake: Callable[[], None]) -> None:
        self._room = room
        self._wake = wake
        self._sent = 0  # written by the engine's thread only
        self._taken = 0  # written by the loop only
        self._letters: deque[MailboxEvent] = deque()
        self._arrival: anyio.Event | None = None

    def lags(self, *, lagged: bool) -> bool:
        """Whether the reader is so far behind that the request waits; one that did wait waits to half."""
        waiting = self._sent - self._taken
        return waiting > self._room // 2 if lagged else waiting >= self._room

    def count(self, letters: int) -> None:
        """Note that so many letters are on their way; the engine calls it before it posts them."""
        self._sent += letters

    def deliver(self, letters: Sequence[MailboxEvent]) -> None:
        """Put letters in; on the loop only."""
        self._letters.extend(letters)
        if self._arrival is not None:
            self._arrival.set()

    async def take(self) -> MailboxEvent:
        """Wait for the next letter; on the loop only, one reader at a time."""
        while not self._letters:
            self._arrival = anyio.Event()
            await self._arrival.wait()
        letter = self._letters.popleft()
        self._taken += 1
        if self._sent - self._taken == self._room // 2:
            self._wake()
        return letter


class Outbox:
    """Collects what one step says, and hands it over to the loop in one go."""

    def __init__(self) -> None:
        self._letters: dict[Mailbox, list[MailboxEvent]] = {}

    def put(self, mailbox: Mailbox, letter: MailboxEvent) -> None:
        """Add a letter for a mailbox."""
        self._letters.setdefault(mailbox, []).append(letter)

    def send(self, loop: EventLoop) -> bool:
        """Hand everything over; return False when the loop is closed."""
        if not self._letters:
            return True
        letters, self._letters = self._letters, {}
        for mailbox, own in letters.items():
            mailbox.count(len(own))

        def deliver() -> None:
            for mailbox, own in letters.items():
                mailbox.deliver(own)

        return loop.call(deliver)
