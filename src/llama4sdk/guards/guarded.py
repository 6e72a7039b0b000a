"""A backend, or a session, whose answers pass through guards: nothing is released before its verdict."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import anyio

from llama4sdk.backend import Metered
from llama4sdk.events import Usage
from llama4sdk.guards.turn import GuardedTurn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from anyio.abc import TaskGroup
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from llama4sdk.backend import Answers, Capabilities
    from llama4sdk.events import Event
    from llama4sdk.guards.guarding import Guarding
    from llama4sdk.messages import Message
    from llama4sdk.request import Request


class Guarded:
    """Answers as a backend or a kept session does, under guards; tool calls come as events, each after its verdict.

    The block of a request is entered, read and left in one task.

    Args:
        inner: A backend or a kept session, started already.
        guarding: The guards.
    """

    reads_calls = True

    def __init__(self, inner: Answers, guarding: Guarding) -> None:
        self._inner = inner
        self._guarding = guarding

    @property
    def guarding(self) -> Guarding:
        """The guards."""
        return self._guarding

    @property
    def capabilities(self) -> Capabilities:
        """Those of the inner backend, with the guards."""
        inner = self._inner.capabilities
        return replace(inner, guards=(*(inner.guards or ()), *(guard.name for guard in self._guarding.guards)))

    def unattended(self) -> Guarded:
        """Return the same for answers where no person can be asked about a call."""
        return Guarded(self._inner, self._guarding.unattended())

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Return a block within which the request runs; as `Backend.open`."""
        return GuardedBlock(self._inner, self._guarding, request)

    async def aclose(self) -> None:
        """Close the inner backend."""
        await self._inner.aclose()


class GuardedBlock(AbstractAsyncContextManager["AsyncIterator[Event]"]):
    """The block of one request; iterates over its released events.

    Args:
        inner: What runs the request.
        guarding: The guards.
        request: The request.
        before: The messages before the request's, in a session.
    """

    def __init__(self, inner: Answers, guarding: Guarding, request: Request, before: tuple[Message, ...] = ()) -> None:
        self._turn = GuardedTurn(inner, guarding, request, self._deliver, before)
        self._failure: Exception | None = None
        self._tasks: TaskGroup
        self._send: MemoryObjectSendStream[Event]
        self._receive: MemoryObjectReceiveStream[Event]

    @property
    def said(self) -> tuple[Message, ...]:
        """The conversation, with the answer at its end once it was cleared."""
        return self._turn.said

    @property
    def usage(self) -> Usage:
        """Tokens of the request so far, where the inner backend tells."""
        block = self._turn.block
        return block.usage if isinstance(block, Metered) else Usage()

    async def __aenter__(self) -> AsyncIterator[Event]:
        self._send, self._receive = anyio.create_memory_object_stream["Event"](0)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._conduct)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks.cancel_scope.cancel()
        try:
            # An error of the reader's passes as it is, not in a group; a cancellation belongs to the group's scope.
            if isinstance(error, Exception):
                await self._tasks.__aexit__(None, None, None)
            else:
                await self._tasks.__aexit__(kind, error, trace)
        finally:
            self._receive.close()
            self._send.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            if self._failure is not None:
                raise self._failure from None
            raise StopAsyncIteration from None

    async def _deliver(self, event: Event) -> None:
        await self._send.send(event)

    async def _conduct(self) -> None:
        try:
            await self._turn.run()
        except Exception as error:  # noqa: BLE001 - raised in the reader's task
            self._failure = error
        finally:
            self._send.close()
