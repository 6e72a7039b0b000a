"""One task that waits for another of the same event loop, for waits that a stream repeats with every chunk.

On asyncio this is a bare future, which takes half the time of an `anyio.Event` that is made, waited for and set.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Wakeup:
    """Wakes the one task that waits; without one, waking does nothing."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | anyio.Event | None = None

    def wait(self) -> Awaitable[None]:
        """Return the wait for the next `wake`, to be awaited at once."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # trio
            self._waiter = event = anyio.Event()
            return event.wait()
        self._waiter = waiter = loop.create_future()
        return waiter

    def wake(self) -> None:
        """Wake the task that waits, if one does; on its event loop only."""
        waiter, self._waiter = self._waiter, None
        if isinstance(waiter, anyio.Event):
            waiter.set()
        elif waiter is not None and not waiter.done():  # a wait that was cancelled is done
            waiter.set_result(None)
