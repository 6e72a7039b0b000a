"""Async calls, blocks and iterators of an event loop in another thread, for code without `async`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

    from anyio.from_thread import BlockingPortal

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Portal:
    """Calls async functions in the event loop's thread.

    Args:
        portal: anyio's portal to that thread.
    """

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Return the result of an async function; an exception here, such as Ctrl-C, cancels it."""
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
