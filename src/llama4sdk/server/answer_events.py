"""The events of one request, read in the task that writes them out: no buffer and no task stands between."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from llama4sdk.backend import Metered
from llama4sdk.errors import GuardBlocked, LlamaError, StreamInterrupted
from llama4sdk.events import Done, Usage
from llama4sdk.stream import log_end, one_error
from llama4sdk.timing import Stopwatch
from llama4sdk.tools.events import CallEvents, call_ids, may_call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from types import TracebackType

    from llama4sdk.backend import Answers
    from llama4sdk.events import Event
    from llama4sdk.request import Request
    from llama4sdk.telemetry.hook import ObservedRequest, Telemetry


class AnswerEvents(AbstractAsyncContextManager["AnswerEvents"]):
    """A block within which a request runs; `events` ends with `Done`, or raises one `LlamaError`.

    Where a guard blocks, the finish reason is `content_filter`, as in OpenAI's API.

    A `Stream` may be read from any task and has a buffer for that. The server enters, reads and leaves the backend's
    block in one task, which a client that leaves cancels; backends have buffers of their own.

    Args:
        answers: What runs it.
        request: The request.
        telemetry: Observes it.
    """

    def __init__(self, answers: Answers, request: Request, telemetry: Telemetry | None = None) -> None:
        self._answers = answers
        self._request = request
        self._block: AbstractAsyncContextManager[AsyncIterator[Event]] | None = None
        self._telemetry = telemetry
        self._observed: ObservedRequest | None = None
        self._watch = Stopwatch()
        reads = may_call(request) and not getattr(answers, "reads_calls", False)
        self._calls = CallEvents(request.tools, call_ids(request)) if reads else None
        self._events: AsyncIterator[Event]
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage:
        """Tokens that the request took, as far as they are known."""
        if self._usage is None and isinstance(self._block, Metered):
            return self._block.usage
        return self._usage or Usage()

    async def __aenter__(self) -> Self:
        if self._telemetry is not None:
            observed = self._telemetry.request(self._request, self._answers.capabilities)
            self._observed = observed.__enter__()
            self._request = replace(self._request, trace_headers=tuple(observed.headers.items()))
        try:
            self._block = self._answers.open(self._request)
            self._events = await self._block.__aenter__()
        except BaseException as error:  # noqa: BLE001 - told to the hook, then raised
            one = self._one(error) if isinstance(error, Exception) else error
            self._end(one)
            raise one from one.__cause__
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._block is not None:
                await self._block.__aexit__(kind, error, trace)
        finally:
            self._watch.stop()
            log_end(self._request, self._watch, self._block if isinstance(self._block, Metered) else None)
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        observed, self._observed = self._observed, None
        if observed is not None:
            observed.cost(self.usage)
            observed.__exit__(None if error is None else type(error), error, None)

    async def events(self) -> AsyncGenerator[Event]:
        """Yield the events, with tool calls read out of the text.

        Raises:
            LlamaError: The request fails, or ends without `Done`.
        """
        calls = self._calls
        try:
            async for event in self._events:
                if self._watch.first is None:
                    self._watch.note(event)
                if isinstance(event, Done):
                    self._usage = event.usage
                for made in (event,) if calls is None else calls.add(event):
                    if self._observed is not None:
                        self._observed.saw(made)
                    yield made
                if isinstance(event, Done):
                    return
        except GuardBlocked:
            blocked = Done("content_filter", self.usage)
            if self._observed is not None:
                self._observed.saw(blocked)
            yield blocked
            return
        except Exception as error:  # noqa: BLE001 - as above
            one = self._one(error)
            raise one from one.__cause__
        raise StreamInterrupted("The backend ended its events without saying that the reply is complete.")

    def _one(self, error: Exception) -> LlamaError:
        return one_error(error, self._answers.capabilities.name, self._request.request_id)
