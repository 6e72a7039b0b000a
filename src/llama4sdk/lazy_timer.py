"""One timer for the many waits of a stream, whose deadline moves later with every event.

A cancel scope with a deadline sets and cancels a timer of the event loop each time, which is a tenth of what a streamed
chunk costs. Here one timer stays set, and looks when it fires whether the deadline has moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

_RESOLUTION = 1e-3  # seconds by which a timer may fire before its time


class LazyTimer:
    """Makes cancel scopes that end at a deadline; made in the event loop that uses them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # trio, whose scopes need no timer each
            self._loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = anyio.current_time if self._loop is None else self._loop.time
        """The event loop's clock, without the detour that anyio takes to it."""
        self._handle: asyncio.TimerHandle | None = None
        self._armed = math.inf  # when the timer fires
        self._until = math.inf  # when the wait in progress must end
        self._scope: anyio.CancelScope | None = None

    def scope(self, until: float) -> anyio.CancelScope:
        """Return a scope for one wait, which is cancelled at a time of the event loop's clock."""
        if self._loop is None:
            return anyio.CancelScope(deadline=until)
        self._scope, self._until = anyio.CancelScope(), until
        if until < self._armed:
            self._arm(self._loop)
        return self._scope

    def waited(self) -> None:
        """Mark the wait as over: its scope is cancelled no more."""
        self._scope = None

    def close(self) -> None:
        """Remove the timer."""
        self._scope = None
        if self._handle is not None:
            self._handle.cancel()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = self._until
        self._handle = loop.call_at(self._until, self._fired, loop)

    def _fired(self, loop: asyncio.AbstractEventLoop) -> None:
        self._armed, self._handle = math.inf, None
        if self._scope is None:
            return
        if self._until <= loop.time() + _RESOLUTION:
            self._scope.cancel()
        else:
            self._arm(loop)
