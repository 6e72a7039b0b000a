"""Two requests for one answer: the second one is sent when the first is slow, and the slower one is cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from llama4sdk.backend import Metered
from llama4sdk.bounded_queue import BoundedQueue
from llama4sdk.errors import InvalidRequest, StreamInterrupted
from llama4sdk.events import Event, Progress, Started, Switched, Usage, UsageUpdate
from llama4sdk.lazy_timer import LazyTimer
from llama4sdk.owned_task import start_owned
from llama4sdk.routing.leaving import leave

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from llama4sdk.request import Request
    from llama4sdk.routing.hedging import Budget, FirstTokenLatency
    from llama4sdk.routing.members import Member, Members

_ROOM = 32  # events of the second request that may wait for their reader


class Race(AsyncIterator[Event]):
    """A block to enter, and the events of one request.

    The first request is read by the reader's own task; only the second one has a task, which belongs to the event loop.

    Args:
        members: The wrapper's backends.
        request: The request.
        pair: The backend that is asked first, and the one that is asked when it is slow.
        latency: When it is slow.
        budget: Whether a second request is allowed.
    """

    def __init__(
        self,
        members: Members,
        request: Request,
        pair: tuple[Member, Member],
        latency: FirstTokenLatency,
        budget: Budget,
    ) -> None:
        self._members = members
        self._request = request
        self._first, self._second = pair
        self._latency = latency
        self._budget = budget
        self._block: AbstractAsyncContextManager[AsyncIterator[Event]] | None = None
        self._events: AsyncIterator[Event] | None = None
        self._decided = False
        self._started = False
        self._begun = 0.0
        self._waiting: anyio.CancelScope | None = None  # the wait for the first request, while it may lose
        self._failure: Exception | None = None  # of the first request, while the second one may answer
        self._task: object = None
        self._runner = anyio.CancelScope()  # of the second request
        self._ended: anyio.Event | None = None
        self._asked = self._won = False
        self._second_block: object = None
        self._queue = BoundedQueue[Event](_ROOM)  # of the second request
        self._ahead: list[Event] = []
        self._rest: Callable[[], Awaitable[Event]] | None = None  # reads the request that answers, once decided

    async def __aenter__(self) -> AsyncIterator[Event]:
        if self._begun:
            raise InvalidRequest("A request's block is entered once; call open() again.")
        self._members.check_open()
        self._now = LazyTimer().now
        self._begun = self._now()
        self._budget.earn()
        self._first.running += 1
        self._block = self._first.backend.open(self._request)
        try:
            self._events = await self._block.__aenter__()
        except BaseException:
            self._block = None
            self._first.release()
            raise
        if self._latency.limit < float("inf"):
            self._ended = anyio.Event()
            self._task = start_owned(self._run_second)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.cancel()
        self._queue.end(StopAsyncIteration())
        self._rest = self._queue.take
        try:
            await self._leave_first()
        finally:
            if self._ended is not None:
                with anyio.CancelScope(shield=True):
                    await self._ended.wait()

    @property
    def usage(self) -> Usage:
        """Tokens of the request that answers so far, as far as its backend tells; of the first while none does."""
        block = self._second_block if self._won else self._block
        return block.usage if isinstance(block, Metered) else Usage()

    def __anext__(self) -> Awaitable[Event]:
        return self._next() if self._rest is None or self._ahead else self._rest()

    async def _next(self) -> Event:
        if self._ahead:
            return self._ahead.pop(0)
        event = await self._race()
        if isinstance(event, Started):
            self._started = True
        return event

    async def _race(self) -> Event:
        """Return the next event before it is decided which request answers."""
        event: Event | None = None
        if self._failure is None and not self._won:
            with anyio.CancelScope() as self._waiting:
                try:
                    event = await self._next_of_first()
                except Exception as error:
                    if not self._asked:
                        raise
                    self._failure = error
            self._waiting = None
        if event is None:
            return await self._take_second()
        if not isinstance(event, Started | Progress | Switched | UsageUpdate):
            self._decided = True
            if self._events is not None:
                self._rest = self._events.__anext__
            self._runner.cancel()
            self._latency.add(self._now() - self._begun)
        return event

    async def _next_of_first(self) -> Event:
        if self._events is None:
            raise StreamInterrupted("The backend ended its events before the answer was complete.")
        try:
            return await self._events.__anext__()
        except StopAsyncIteration:
            raise StreamInterrupted("The backend ended its events before the answer was complete.") from None

    async def _take_second(self) -> Event:
        """Leave the first request, and read the second one from now on."""
        await self._leave_first()
        try:
            first = await self._queue.take()
        except Exception as error:  # noqa: BLE001 - where both fail, the first one's error stands
            raise self._failure or error from None
        self._decided, self._rest = True, self._queue.take
        able = self._second.backend.capabilities
        reason = f"no token after {self._now() - self._begun:.3g} s"
        self._ahead = [Switched(able.name, reason, model=able.model), first]
        if not self._started:
            return Started(self._request.request_id, able.name, able.model)
        return self._ahead.pop(0)

    async def _leave_first(self) -> None:
        block, self._block, self._events = self._block, None, None
        if block is not None:
            self._first.release()
            await leave(block)

    async def _run_second(self) -> None:
        """Wait, and if nothing has come by then, run the second request to its end."""
        try:
            with self._runner:
                await anyio.sleep(self._latency.limit)
                if self._decided or not self._budget.spend():
                    return
                self._asked = True
                self._second.running += 1
                try:
                    await self._read_second()
                finally:
                    self._second.release()
        except Exception as error:  # noqa: BLE001 - handed over: the reader gets it where the first one fails too
            self._queue.end(error)
        finally:
            if self._ended is not None:
                self._ended.set()

    async def _read_second(self) -> None:
        deadlines = self._request.deadlines
        if deadlines.total is not None:
            deadlines = replace(deadlines, total=max(deadlines.total - (self._now() - self._begun), 0.001))
        async with AsyncExitStack() as stack:
            self._second_block = self._second.backend.open(replace(self._request, deadlines=deadlines))
            events = await stack.enter_async_context(self._second_block)
            offer, put = self._queue.offer, self._queue.put
            async for event in events:
                if self._won:
                    if not offer(event):
                        await put(event)
                elif not isinstance(event, Started | Progress | Switched | UsageUpdate):
                    self._won = True
                    self._latency.add(self._now() - self._begun)  # as long as the first one took at the least
                    if self._waiting is not None:
                        self._waiting.cancel()
                    await put(event)
        self._queue.end(StopAsyncIteration())
