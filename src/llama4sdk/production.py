"""Events that a task of the event loop's own makes, and the block that reads them."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import anyio

from llama4sdk.bounded_queue import BoundedQueue
from llama4sdk.errors import InvalidRequest, LlamaError, StreamInterrupted
from llama4sdk.events import TextDelta
from llama4sdk.owned_task import call_in, running_loop, start_owned

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

E = TypeVar("E")

# Events that may wait for a slow reader before the backend has to wait as well.
_BUFFERED_EVENTS = 32


class Production(ABC, Generic[E]):
    """Makes events in a task of the event loop's own.

    It never refers to what reads it, so that a reader that is dropped without leaving its block is freed, and stops it.

    Args:
        owner: The client's running productions, which end with the client.
    """

    def __init__(self, owner: set[Production[Any]] | None = None) -> None:
        self.owner: set[Production[Any]] = set() if owner is None else owner
        self.queue = BoundedQueue[E](_BUFFERED_EVENTS)
        self.failure: LlamaError | None = None
        self.cancelled = False
        self.home: object = None  # the event loop that it was started in
        self._task: object = None
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    @abstractmethod
    async def produce(self) -> None:
        """Put every event into `self.queue`; what is raised reaches the reader as one `LlamaError`."""

    @abstractmethod
    def explained(self, error: BaseException) -> LlamaError:
        """Return the one error that the reader gets."""

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.home is not None and not self._ended.is_set()

    def start(self) -> None:
        """Start the task, in the running event loop."""
        self.home = running_loop()
        self.owner.add(self)
        self._task = start_owned(self._pump)

    async def stop(self) -> None:
        """Stop, and wait for the end; does nothing in another event loop than its own."""
        if self.home is not None and running_loop() == self.home:
            self._scope.cancel()
            await self._ended.wait()

    def stop_soon(self) -> None:
        """Stop without waiting for it, from any thread; does nothing where its event loop has ended."""
        call_in(self.home, self._scope.cancel)

    async def _pump(self) -> None:
        completed = False
        try:
            with self._scope:
                await self.produce()
                completed = True
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the edge where every failure becomes one error
            self.failure = self.explained(error)
        finally:
            self.cancelled = self._scope.cancelled_caught
            if not (completed or self.cancelled or self.failure):  # a cancellation from elsewhere
                self.failure = self.explained(StreamInterrupted("What ran behind it was cancelled from elsewhere."))
            self.owner.discard(self)
            self.queue.end()
            self._ended.set()


class Stoppable(Protocol):
    """A task behind a block, one of the event loop's own; see `Production`."""

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        ...

    def stop_soon(self) -> None:
        """Stop without waiting for it, from any thread; does nothing where its event loop has ended."""
        ...


P = TypeVar("P", bound=Stoppable)


class StoppedWhenDropped(Generic[P]):
    """A block that is dropped without being left stops what goes on behind it, with a `ResourceWarning`."""

    _what: str
    _production: P

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        production: P | None = getattr(self, "_production", None)
        if production is not None and production.running:
            production.stop_soon()
            warn(
                f"A {self._what} was dropped without leaving its block, and is stopped; use 'async with'.",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


class Pumped(StoppedWhenDropped[Production[E]], AsyncIterator[E], Generic[E]):
    """A block that reads a production, so that `cancel()` works at once, from any task.

    The block may be left in another task than the one that entered it, as an async generator around it is when it is
    finalized, and under any cancel scope. Leaving it early stops the production; so does dropping it within the block,
    with a `ResourceWarning`. A slow reader delays only its own events.

    Args:
        what: Its name in messages, as `stream`.
        production: Makes the events; not started yet.
    """

    def __init__(self, what: str, production: Production[E]) -> None:
        self._what = what
        self._production = production
        self._queue = production.queue

    @abstractmethod
    def _at_end(self) -> E:
        """Return the event that follows the last one; raise `StopAsyncIteration` where there is none."""

    async def __aenter__(self) -> Self:
        if self._production.home is not None:
            raise InvalidRequest(f"A {self._what} runs once; ask for another with llama.{self._what}(…).")
        self._production.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._production.home is None:
            return
        try:
            with anyio.CancelScope(shield=True):
                await self._production.stop()
        finally:
            self._queue.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        if running_loop() is not self._production.home:
            self._check_loop()
        try:
            return await self._queue.take()
        except anyio.EndOfStream:
            return self._at_end()
        except anyio.ClosedResourceError:
            raise InvalidRequest(f"The {self._what}'s block was left; read it inside the block.") from None

    def text(self) -> AsyncIterator[str]:
        """Return the text as it comes, in whole characters.

        Raises:
            LlamaError: While it is read, when the request fails.
        """
        return _Texts(self)

    async def cancel(self) -> None:
        """Stop, and wait until what runs behind it has stopped.

        May be called from any task of the same event loop, any number of times.
        """
        self._check_loop()
        await self._production.stop()

    def _check_loop(self) -> None:
        if self._production.home is None:
            raise InvalidRequest(f"Enter the {self._what} first: async with llama.{self._what}(…) as {self._what}.")
        if running_loop() != self._production.home:
            raise InvalidRequest(
                f"This {self._what} belongs to another event loop; read it in the loop that entered it."
            )


class _Texts(AsyncIterator[str]):
    """The text of a stream; no generator, so that leaving it in the middle leaves nothing to clean up."""

    def __init__(self, events: AsyncIterator[object]) -> None:
        self._events = events

    async def __anext__(self) -> str:
        while True:
            event = await self._events.__anext__()
            if isinstance(event, TextDelta):
                return event.text
