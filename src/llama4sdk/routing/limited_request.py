"""One request within limits: counted, queued, sent, and accounted for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import anyio

from llama4sdk.backend import Metered
from llama4sdk.deadline_clock import Clock
from llama4sdk.errors import InvalidRequest, Overloaded
from llama4sdk.events import Done, Event, TextDelta, Usage
from llama4sdk.routing.leaving import leave

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from llama4sdk.backend import Answers
    from llama4sdk.errors import Phase
    from llama4sdk.request import Deadlines, Request
    from llama4sdk.routing.limiter import Limiter
    from llama4sdk.routing.members import Members


class LimitedRequest(AsyncIterator[Event]):
    """A block to enter, and the events of one request.

    Args:
        members: The wrapper's one backend.
        answers: That backend, or a session of it.
        request: The request.
        limiter: Admits it.
        tenant: Whose it is.
        tokens: Counts the prompt, and guesses the answer.
    """

    def __init__(
        self,
        members: Members,
        answers: Answers,
        request: Request,
        limiter: Limiter,
        tenant: str,
        tokens: Callable[[Request], Awaitable[tuple[int, float]]],
    ) -> None:
        self._members = members
        self._answers = answers
        self._request = request
        self._limiter = limiter
        self._tenant = tenant
        self._tokens = tokens
        self._begun: float | None = None
        self._prompt = 0
        self._reserved: float | None = None  # while it is admitted
        self._written = 0
        self._usage: Usage | None = None
        self._block: AbstractAsyncContextManager[AsyncIterator[Event]] | None = None
        self._events: AsyncIterator[Event] | None = None

    async def __aenter__(self) -> AsyncIterator[Event]:
        if self._begun is not None:
            raise InvalidRequest("A request's block is entered once; call open() again.")
        self._members.check_open()
        self._begun = anyio.current_time()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block, self._block, self._events = self._block, None, None
        try:
            if block is not None:
                self._members.all[0].release()
                if self._usage is None and isinstance(block, Metered):
                    self._usage = block.usage
                await leave(block)
        finally:
            if self._reserved is not None:
                self._limiter.release(self._reserved, self._used())
                self._reserved = None

    @property
    def usage(self) -> Usage:
        """Tokens so far, as far as the backend tells."""
        return self._block.usage if isinstance(self._block, Metered) else self._usage or Usage()

    async def __anext__(self) -> Event:
        events = self._events or await self._admitted()
        try:
            event = await events.__anext__()
        except Overloaded as error:
            self._limiter.refused(error.retry_after)
            raise
        if isinstance(event, TextDelta):
            self._written += 1
        elif isinstance(event, Done):
            self._end(event)
        return event

    async def _admitted(self) -> AsyncIterator[Event]:
        """Count, wait, and enter the backend's block."""
        self._members.check_open()
        clock = Clock(self._request.deadlines, self._begun or 0.0)
        phase, until = clock.limit(anyio.current_time())
        with anyio.CancelScope(deadline=until) as scope:
            self._prompt, answer = await self._tokens(self._request)
            reserved = self._prompt + answer
            await self._limiter.admit(
                reserved,
                tenant=self._tenant,
                priority=self._request.priority,
                patience=until - anyio.current_time(),
            )
            self._reserved = reserved
        if scope.cancelled_caught:
            raise clock.exceeded(phase)
        self._members.check_open()
        member = self._members.all[0]
        block = self._answers.open(replace(self._request, deadlines=self._deadlines_left(clock)))
        self._events = await block.__aenter__()
        self._block = block
        member.running += 1
        return self._events

    def _deadlines_left(self, clock: Clock) -> Deadlines:
        deadlines = self._request.deadlines
        waited = anyio.current_time() - (self._begun or 0.0)
        left: dict[str, float] = {}
        phases: tuple[Phase, Phase] = ("first_token", "total")
        for phase in phases:
            limit = cast("float | None", getattr(deadlines, phase))
            if limit is None:
                continue
            if limit - waited <= 0:
                raise clock.exceeded(phase)
            left[phase] = limit - waited
        return replace(deadlines, **cast("dict[str, Any]", left))

    def _end(self, done: Done) -> None:
        self._usage = done.usage
        self._limiter.answered(done.usage.completion_tokens if done.usage is not None else self._written)
        limits = done.details.get("rate_limits")
        if isinstance(limits, dict):
            self._limiter.told(cast("Mapping[str, float]", limits))

    def _used(self) -> float:
        """Return the tokens that it took, as far as they are known."""
        if self._usage is not None and self._usage.total_tokens:
            return float(self._usage.total_tokens)
        sent = self._prompt if self._written or self._usage is not None else 0
        return float(sent + self._written)
