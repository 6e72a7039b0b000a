"""One request over several backends: tried one after the other, and resumed where an answer breaks off."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import anyio

from llama4sdk.backend import KeepsDeadlines, Metered
from llama4sdk.deadline_clock import Clock
from llama4sdk.errors import InvalidRequest, LlamaError, Overloaded, StreamInterrupted
from llama4sdk.events import (
    Done,
    Event,
    Progress,
    Started,
    Switched,
    TextDelta,
    ToolCallDelta,
    ToolCallReady,
    ToolCallStarted,
    Usage,
    UsageUpdate,
)
from llama4sdk.lazy_timer import LazyTimer
from llama4sdk.routing.leaving import leave
from llama4sdk.routing.policy import action_for, tells_of_health
from llama4sdk.routing.router import pick
from llama4sdk.routing.shown import Shown
from llama4sdk.stream import one_error

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from llama4sdk.errors import Phase
    from llama4sdk.prompting import Tokenizer
    from llama4sdk.request import Deadlines, Request
    from llama4sdk.routing.members import Member
    from llama4sdk.routing.router import Router


class Routed(AsyncIterator[Event]):
    """A block to enter, and the events of one request.

    Args:
        router: Chooses the backends.
        request: The request.
    """

    def __init__(self, router: Router, request: Request) -> None:
        self._router = router
        self._request = request
        self._shown = Shown(request)
        self._texts = self._shown.texts
        self._ready: deque[Event] = deque()
        self._started = self._over = False
        self._member: Member | None = None  # that runs the request now
        self._block: AbstractAsyncContextManager[AsyncIterator[Event]] | None = None
        self._events: AsyncIterator[Event] | None = None
        self._timed: AsyncIterator[Event] | None = None  # the same once they answer, where they keep the deadlines
        self._tried: set[Member] = set()
        self._failures: list[LlamaError] = []
        self._switched: Switched | None = None  # to be shown once the next backend has started
        self._metered: Usage | None = None  # of the last try
        self._probes = False  # whether the try decides on the rest of its backend
        self._progress = 0  # how much had been shown when the try began
        self._era = 0  # of the backend's failures, when the try began
        self._deadlines = request.deadlines  # of this try
        self._clock: Clock
        self._timer: LazyTimer

    async def __aenter__(self) -> AsyncIterator[Event]:
        if self._over or hasattr(self, "_timer"):
            raise InvalidRequest("A request's block is entered once; call open() again.")
        self._router.members.check_open()
        self._timer = LazyTimer()
        deadlines, now = self._request.deadlines, self._timer.now()
        self._until = math.inf if deadlines.total is None else now + deadlines.total
        self._clock = Clock(deadlines, now)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._timer.close()
        await self._leave()

    @property
    def usage(self) -> Usage:
        """Tokens of all tries so far, as far as the backends tell."""
        metered = self._block
        return self._shown.summed(metered.usage) if isinstance(metered, Metered) else Usage()

    async def __anext__(self) -> Event:
        while True:
            if self._ready:
                return self._ready.popleft()
            if self._over:
                raise StopAsyncIteration
            if self._block is None and not await self._chosen():
                continue
            try:
                if self._timed is not None:
                    event = await self._timed.__anext__()
                else:
                    event, timer = None, self._timer
                    phase, until = self._clock.limit(timer.now())
                    with timer.limit(until):
                        event = await (self._enter() if self._events is None else self._events.__anext__())
                    if event is None:  # the wait was cut
                        self._out_of_time(phase)
                if isinstance(event, TextDelta):
                    self._texts.append(event.text)
                    if not self._clock.answering:
                        self._answers()
                    return event
                self._take(event)
            except StopAsyncIteration:
                await self._failed(StreamInterrupted("The backend ended its events before the answer was complete."))
            except Exception as error:  # noqa: BLE001 - a backend that fails in its own way is one that failed
                await self._failed(error)

    def _out_of_time(self, phase: Phase) -> NoReturn:
        raise Clock(self._request.deadlines, 0).exceeded(phase)

    async def _enter(self) -> Event:
        """Enter the backend's block, and return its first event."""
        if self._block is None:
            raise StreamInterrupted("The request was left.")
        self._events = await self._block.__aenter__()
        return await self._events.__anext__()

    def _take(self, event: Event) -> None:
        """Put an event of the backend that runs now in line, as its reader shall see it."""
        match event:
            case Started():
                self._begin(event)
                return
            case ToolCallStarted() | ToolCallDelta() | ToolCallReady():
                self._shown.calls = True
            case UsageUpdate():
                event = UsageUpdate(self._shown.summed(event.usage))
            case Done() if not self._over:
                self._over = True
                if self._member is not None:
                    self._member.breaker.succeeded()
                event = event if event.usage is None else replace(event, usage=self._shown.summed(event.usage))
            case _:
                pass
        if not isinstance(event, Progress | Switched | UsageUpdate) and not self._clock.answering:
            self._answers()
        self._ready.append(event)

    def _begin(self, event: Started) -> None:
        if not self._started:
            self._started = True
            self._ready.append(event)
        if self._switched is not None:
            self._ready.append(replace(self._switched, backend=event.backend, model=event.model))
            self._switched = None

    def _answers(self) -> None:
        """Take note that the backend's own first event has come."""
        self._clock.answering = True
        events = self._events
        if isinstance(events, KeepsDeadlines) and events.kept_deadlines == self._deadlines:
            self._timed = events
        if self._member is not None:
            self._router.answered(self._request, self._member)

    async def _chosen(self) -> bool:
        """Choose the next backend, whose deadlines then run; return whether there is one to be read.

        Raises:
            LlamaError: When no backend is left.
        """
        try:
            if self._choose():
                return True
        except Exception as error:  # noqa: BLE001 - as above
            await self._failed(error)
            return False
        self._over = True
        self._ready.append(Done("length", self._shown.complete(self._metered)))
        return False

    def _choose(self) -> bool:
        """Choose the next backend, and make its block; return False when nothing is left to be written.

        Raises:
            LlamaError: When no backend is left.
        """
        self._router.members.check_open()
        request = self._shown.rest_of_request()
        if request is None:
            return False
        member = self._pick(request)
        if member is None and self._shown.anything and self._shown.withdrawable:
            self._shown.withdraw()
            request = self._request
            member = self._pick(request)
            if self._switched is not None:
                self._switched = replace(self._switched, withdrawn=True)
        if member is None:
            raise self._given_up(request)
        request = replace(request, deadlines=self._deadlines_left())
        self._deadlines = request.deadlines
        self._clock = Clock(request.deadlines, self._timer.now())
        self._progress = len(self._texts)
        self._tried.add(member)
        self._member = member
        member.running += 1
        self._era = member.breaker.era
        self._probes = member.breaker.begin()
        self._block = member.backend.open(request)
        return True

    def _pick(self, request: Request) -> Member | None:
        if self._shown.calls:  # no backend goes on with calls that it has not written itself
            return None
        now = anyio.current_time()
        member = pick(self._router, request, now, lambda member: member not in self._tried)
        if member is None and len(self._texts) > self._progress and self._failures:
            # Something was answered since: those that failed before may be tried again.
            member = pick(self._router, request, now, lambda member: True)
            if member is not None:
                self._tried.clear()
        return member

    def _deadlines_left(self) -> Deadlines:
        if self._until == math.inf:
            return self._request.deadlines
        left = self._until - anyio.current_time()
        if left <= 0:
            raise Clock(self._request.deadlines, 0).exceeded("total")
        return replace(self._request.deadlines, total=left)

    async def _failed(self, error: Exception) -> None:
        """Leave the backend that failed; return when another may be tried.

        Raises:
            LlamaError: The error, when it is the request's end.
        """
        member, wrapper = self._member, self._router.members.capabilities.name
        if member is not None and member.removed:  # what it raises is of its closing
            error = _taken_out(error)
        failure = one_error(error, member.name if member else wrapper, self._request.request_id)
        if member is not None and tells_of_health(failure):
            retry_after = failure.retry_after if isinstance(failure, Overloaded) else None
            begun = self._era if self._clock.answering else None
            member.breaker.failed(anyio.current_time(), retry_after=retry_after, begun=begun)
        await self._leave()
        rules = self._router.rules
        goes_on = member is not None and action_for(failure, rules.policy) == "next"
        if not goes_on or len(self._failures) >= rules.switches or (self._shown.anything and not rules.resume):
            self._end(failure)
        if len(self._texts) > self._progress or self._shown.calls:
            await self._shown.interrupted(self._tokenizer())
        self._failures.append(failure)
        withdrawn = self._switched is not None and self._switched.withdrawn
        self._switched = Switched("", f"{type(failure).__name__}: {failure}", withdrawn=withdrawn)

    def _end(self, failure: LlamaError) -> None:
        self._over = True
        for earlier in self._failures:
            if earlier is not failure:
                failure.add_note(f"Before, {earlier.backend} failed with {type(earlier).__name__}: {earlier}")
        raise failure

    def _given_up(self, request: Request) -> LlamaError:
        """Return the error of a request that no backend is left for."""
        if self._failures:
            last = self._failures.pop()
            if request.answer_so_far:
                last.add_note("No backend is left that goes on with the beginning of this answer.")
            return last
        rests = [member.breaker.rests_until for member in self._router.members.usable if member.breaker.is_open]
        wait = max(min(rests, default=0.0) - anyio.current_time(), 0.0)
        return Overloaded(
            "No backend takes requests now: they rest after failures, or are being drained.", retry_after=wait
        )

    def _tokenizer(self) -> Tokenizer | None:
        try:
            return self._router.members.prompt_template.tokenizer
        except LlamaError:
            return None

    async def _leave(self) -> None:
        """Leave the block of the backend that runs the request now, whatever comes of it."""
        block, entered = self._block, self._events is not None
        member, self._member, self._block, self._events, self._timed = self._member, None, None, None, None
        if member is not None:
            member.release()
            if self._probes:
                member.breaker.left()
        if isinstance(block, Metered):
            self._metered = block.usage
        if block is not None and entered:
            await leave(block)


def _taken_out(error: Exception) -> LlamaError:
    failure = StreamInterrupted("The backend was taken out while it answered; ask again.")
    failure.__cause__ = error
    return failure
