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
    from contextlib import AbstractContextManager
    from types import TracebackType

_RESOLUTION = 1e-3  # seconds by which a timer may fire before its time


class Cut:
    """A block whose task may be cancelled once to end it; may be entered again and again, on asyncio.

    A cancellation that came from elsewhere, before or after its own, passes through.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._pending = 0  # cancellations of the task when the block was entered
        self._called = False

    def cancel(self) -> None:
        """End the block that runs, unless its task is being cancelled already."""
        if self._task is not None and self._task.cancelling() == self._pending and not self._called:
            self._called = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        if task is not None:
            self._pending = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if not self._called or task is None:
            return False
        self._called = False
        return task.uncancel() <= self._pending and isinstance(error, asyncio.CancelledError)


class LazyTimer:
    """Makes cancel scopes that end at a deadline; made in the event loop that uses them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # trio, whose scopes need no timer each
            self._loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = anyio.current_time if self._loop is None else self._loop.time
        """The event loop's clock, without the detour that anyio takes to it."""
        self._make_scope: type[anyio.CancelScope] = type(anyio.CancelScope())
        """The event loop's own class of scopes, which anyio looks up for each one: half of what a scope costs."""
        self._handle: asyncio.TimerHandle | None = None
        self._armed = math.inf  # when the timer fires
        self._until = math.inf  # when the wait in progress must end
        self._cut = Cut()
        # Of the last wait; once that is over, cancelling it does nothing.
        self._scope: anyio.CancelScope | Cut | None = None

    def scope(self, until: float) -> anyio.CancelScope:
        """Return a scope for one wait, which is cancelled at a time of the event loop's clock."""
        if self._loop is None:
            return anyio.CancelScope(deadline=until)
        self._scope, self._until = self._make_scope(), until
        if until < self._armed:
            self._arm(self._loop)
        return self._scope

    def limit(self, until: float) -> AbstractContextManager[object]:
        """Return a block for one wait that ends by itself at a time of the event loop's clock, as `scope` does.

        On asyncio the wait is cut by cancelling the task, as `asyncio.timeout` does it, which costs a fifth of a scope;
        whether it was cut is to be seen from what the block did not do.
        """
        if self._loop is None:
            return anyio.CancelScope(deadline=until)
        self._scope, self._until = self._cut, until
        if until < self._armed:
            self._arm(self._loop)
        return self._cut

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
