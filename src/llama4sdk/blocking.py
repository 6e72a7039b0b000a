"""Async calls, blocks and iterators of an event loop in another thread, for code without `async`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Portal:
    """Calls async functions in the thread of an event loop of its own, which ends with `close`.

    The thread is a daemon. anyio's `start_blocking_portal` waits for it where it is garbage collected, which at the end
    of the interpreter, and in a forked process, is a wait without an end.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._started: Future[BlockingPortal] = Future()
        self._closed = False
        self._thread = threading.Thread(target=_run, args=(self._started,), name="llama4sdk.sync", daemon=True)
        self._thread.start()
        self._portal = self._started.result()

    def close(self) -> None:
        """End the event loop once its running calls have ended; does nothing in a forked process, which has none."""
        if not self._closed and os.getpid() == self._process:
            self._closed = True
            self._portal.call(self._portal.stop)
            self._thread.join()

    def __del__(self) -> None:
        alive = hasattr(self, "_portal") and not sys.is_finalizing()
        if alive and threading.current_thread() is not self._thread:
            self.close()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Return the result of an async function; an exception here, such as Ctrl-C, cancels it.

        Raises:
            InvalidRequest: The event loop was closed, or belongs to the process that this one was forked from.
        """
        if self._closed:
            raise InvalidRequest("This client is closed; make another Llama4(…).")
        if os.getpid() != self._process:
            raise InvalidRequest("This client belongs to another process; make another Llama4(…) here.")
        future = self._portal.start_task_soon(function)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def make(self, function: Callable[[], T]) -> T:
        """Return the result of a plain function that is called in the event loop's thread."""

        async def made() -> T:
            return function()

        return self.call(made)

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Return the items of an async iterator."""
        return _Items(self, items)


def _run(started: Future[BlockingPortal]) -> None:
    async def main() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        anyio.run(main)
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


class _Items(Iterator[T]):
    def __init__(self, portal: Portal, items: AsyncIterator[T]) -> None:
        self._portal = portal
        self._items = items

    def __next__(self) -> T:
        async def following() -> tuple[T] | None:
            try:
                return (await self._items.__anext__(),)
            except StopAsyncIteration:  # cannot pass through a future
                return None

        item = self._portal.call(following)
        if item is None:
            raise StopIteration
        return item[0]


class Blocks(Protocol[T_co]):
    """An async block whose items can be read within it."""

    async def __aenter__(self) -> Self:
        """Enter it."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave it."""
        ...

    async def __anext__(self) -> T_co:
        """Return the next item."""
        ...

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Return the items."""
        ...


class Blocking(Iterator[T], Generic[T]):
    """An async block and its items, to be entered with `with`.

    Args:
        portal: Where it runs.
        make: Makes it, in the event loop's thread.
    """

    _inner: Any

    def __init__(self, portal: Portal, make: Callable[[], Blocks[T]]) -> None:
        self._portal = portal
        self._inner = portal.make(make)
        self._items = portal.iterate(self._inner)

    def __enter__(self) -> Self:
        self._portal.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async def leave() -> None:
            await self._inner.__aexit__(kind, error, trace)

        self._portal.call(leave)

    def __next__(self) -> T:
        return next(self._items)
