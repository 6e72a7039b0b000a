"""A running request: its events, the reply so far, and a way to stop it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from llama4sdk.backend import Backend
from llama4sdk.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LlamaError,
    ServerFault,
    StreamInterrupted,
)
from llama4sdk.events import Done, Event, TextDelta
from llama4sdk.reply import Reply, ReplyBuilder
from llama4sdk.request import Request

# Events that may wait for a slow reader before the backend has to wait as well.
_BUFFERED_EVENTS = 32


class Stream(AsyncIterator[Event]):
    """The events of one request; made by `Llama4.stream`.

        async with llama.stream("Tell me a story.") as stream:
            async for text in stream.text():
                print(text, end="", flush=True)
        reply = stream.snapshot

    Leaving the block early stops the work behind it. A reader that is slow holds only this stream up.
    The request runs in a task of its own, so that `cancel()` works at once, from any task of the loop.

    Args:
        backend: What runs it; started already.
        request: What to run.
    """

    def __init__(self, backend: Backend, request: Request) -> None:
        self._backend = backend
        self._request = request
        self._builder = ReplyBuilder()
        self._tasks: TaskGroup | None = None
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._send: MemoryObjectSendStream[Event]
        self._receive: MemoryObjectReceiveStream[Event]
        self._failure: LlamaError | None = None
        self._cancelled = False
        self._over = False

    @property
    def request(self) -> Request:
        """What was asked."""
        return self._request

    @property
    def snapshot(self) -> Reply:
        """The reply as far as it was read; its `finish_reason` is None until it is complete."""
        return self._builder.snapshot()

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise InvalidRequest("A stream runs once; ask for another with llama.stream(…).")
        self._send, self._receive = anyio.create_memory_object_stream[Event](_BUFFERED_EVENTS)
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._pump)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks is None:
            return
        self._scope.cancel()
        try:
            # The block's own exception is not handed in: a task group would wrap it into a group.
            await self._tasks.__aexit__(None, None, None)
        finally:
            self._receive.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._tasks is None:
            raise InvalidRequest("Enter the stream first: async with llama.stream(…) as stream.")
        if self._over:
            raise StopAsyncIteration
        try:
            event = await self._receive.receive()
        except anyio.EndOfStream:
            event = self._last_event()
        except anyio.ClosedResourceError:
            raise InvalidRequest("The stream's block was left; read it inside the block.") from None
        self._builder.add(event)
        self._over = isinstance(event, Done)
        return event

    def text(self) -> AsyncIterator[str]:
        """Return the text as it comes, in whole characters.

        Raises:
            LlamaError: While it is read, when the request fails.
        """
        return _Texts(self)

    async def result(self) -> Reply:
        """Wait for the end and return the whole reply; `finish_reason` says how it ended.

        A stream that was cancelled returns what had come, with the finish reason `cancelled`.

        Raises:
            LlamaError: When the request fails.
        """
        async for _ in self:
            pass
        return self.snapshot

    async def cancel(self) -> None:
        """Stop the request, and wait until what runs behind it has stopped.

        May be called from any task of the same event loop, any number of times. Whoever reads the
        stream gets what had come by then, and `Done` with the finish reason `cancelled`.
        """
        if self._tasks is None:
            raise InvalidRequest("Enter the stream first: async with llama.stream(…) as stream.")
        self._scope.cancel()
        await self._ended.wait()

    async def _pump(self) -> None:
        try:
            with self._scope:
                await self._forward()
        except Exception as error:  # noqa: BLE001 - this is the edge where every failure becomes one error
            self._failure = _one_error(error, self._backend.capabilities.name, self._request.request_id)
        finally:
            self._cancelled = self._scope.cancelled_caught
            self._send.close()
            self._ended.set()

    async def _forward(self) -> None:
        async with AsyncExitStack() as stack:
            events = await stack.enter_async_context(self._backend.open(self._request))
            async for event in events:
                await self._send.send(event)
                if isinstance(event, Done):
                    return
        raise StreamInterrupted("The backend ended its events without saying that the reply is complete.")

    def _last_event(self) -> Event:
        if self._failure is not None:
            raise self._with_partial(self._failure)
        if self._cancelled:
            return Done("cancelled", self.snapshot.usage)
        raise StopAsyncIteration

    def _with_partial(self, error: LlamaError) -> LlamaError:
        if isinstance(error, StreamInterrupted | DeadlineExceeded) and error.partial is None:
            error.partial = self.snapshot
        return error


class _Texts(AsyncIterator[str]):
    """The text of a stream; no generator, so that leaving it in the middle leaves nothing to clean up."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events

    async def __anext__(self) -> str:
        while True:
            event = await self._events.__anext__()
            if isinstance(event, TextDelta):
                return event.text


def _one_error(error: BaseException, backend: str, request_id: str) -> LlamaError:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if not isinstance(error, LlamaError):
        fault = ServerFault(f"The backend {backend!r} failed with {type(error).__name__}; see __cause__.")
        fault.__cause__ = error
        error = fault
    error.backend = error.backend or backend
    error.request_id = error.request_id or request_id
    return error
