"""Backends that fail on order, around others that do not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace

import anyio

from llama4sdk.backend import Backend, Capabilities
from llama4sdk.errors import LlamaError, StreamInterrupted
from llama4sdk.events import Done, Event, TextDelta
from llama4sdk.request import Request
from llama4sdk.stream import Stream


class Cutting:
    """Breaks off each request after so many events; then, and after `times` requests, it answers.

    Args:
        backend: Answers.
        events: Events before the break; None for no break.
        times: Requests that break off.
        error: What is raised; None to end without an error, as a liar does.
        changes: Changed capabilities.
    """

    def __init__(
        self,
        backend: Backend,
        events: int | None,
        *,
        times: int = 1,
        error: LlamaError | None = StreamInterrupted("The cable broke."),  # noqa: B008
        **changes: object,
    ) -> None:
        self._backend = backend
        self._events = events
        self._times = times
        self._error = error
        self._changes = changes
        self.requests: list[Request] = []
        self.running = 0

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._backend.capabilities, **self._changes)  # type: ignore[arg-type]

    async def start(self) -> None:
        await self._backend.start()

    async def aclose(self) -> None:
        await self._backend.aclose()

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        return self._run(request)

    @asynccontextmanager
    async def _run(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        self.requests.append(request)
        self.running += 1
        try:
            async with self._backend.open(request) as events, aclosing(self._cut(events)) as cut:
                yield cut
        finally:
            self.running -= 1

    async def _cut(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
        breaks = self._events is not None and len(self.requests) <= self._times
        shown = 0
        async for event in events:
            if breaks and shown == self._events:
                if self._error is not None:
                    raise type(self._error)(*self._error.args) if not vars(self._error) else self._error
                return
            shown += 1
            yield event


async def events_of(backend: Backend, request: Request) -> list[Event]:
    async with Stream(backend, request) as stream:
        return [event async for event in stream]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def done_of(events: list[Event]) -> Done:
    done = events[-1]
    assert isinstance(done, Done)
    return done


async def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something has happened that no event tells of."""
    with anyio.fail_after(seconds):
        while not happened():  # noqa: ASYNC110
            await anyio.sleep(0.002)
