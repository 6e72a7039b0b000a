"""A running request: its events, the reply so far, and a way to stop it."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic

from llama4sdk.backend import Metered
from llama4sdk.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LlamaError,
    ServerFault,
    StreamInterrupted,
)
from llama4sdk.events import Done, Event, Switched, UsageUpdate
from llama4sdk.output import AnswerForm, OutputReader
from llama4sdk.production import Production, Pumped
from llama4sdk.reply import Answer, Reply, ReplyBuilder
from llama4sdk.timing import Stopwatch
from llama4sdk.tools.events import CallEvents, call_ids, may_call

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama4sdk.backend import Answers
    from llama4sdk.request import Request
    from llama4sdk.telemetry.hook import ObservedRequest, Telemetry

_LOG = logging.getLogger("llama4sdk")


class Stream(Pumped[Event], Generic[Answer]):
    """The events of one request; made by `Llama4.stream`.

        async with llama.stream("Tell me a story.") as stream:
            async for text in stream.text():
                print(text, end="", flush=True)
        reply = stream.snapshot

    The reader of a cancelled stream gets the events so far, and `Done` with the finish reason
    `cancelled`. Tool calls and the typed answer are read out of the text, whatever the backend; calls that it
    sends as events pass, and are numbered together with the others.

    Args:
        backend: What runs it, a backend or a session; started already.
        request: What to run.
        form: The form of a typed answer.
        owner: The client's running streams.
        telemetry: Observes the request.
        session: Id of the session that it is a turn of.
    """

    def __init__(
        self,
        backend: Answers,
        request: Request,
        *,
        form: AnswerForm | None = None,
        owner: set[Production[Any]] | None = None,
        telemetry: Telemetry | None = None,
        session: str = "",
    ) -> None:
        if request.sampling.n != 1:
            raise InvalidRequest("A stream is one answer; n of Sampling is for chat() without a session.")
        self._answering = _Answering(backend, request, form, owner, telemetry, session)
        super().__init__("stream", self._answering)
        self._request = request
        self._builder = ReplyBuilder()
        self._over = False

    @property
    def request(self) -> Request:
        """Its request."""
        return self._request

    @property
    def snapshot(self) -> Reply[Any]:
        """The reply as far as it was read; its `finish_reason` is None until it is complete.

        Until then its `output` is plain JSON data, as in `Partial`.
        """
        reply, metered, watch = self._builder.snapshot(), self._answering.metered, self._answering.watch
        if reply.finish_reason in (None, "cancelled") and not reply.usage.total_tokens and metered is not None:
            reply = replace(reply, usage=metered.usage)
        # What was read of a typed answer that did not come to its end is not the answer.
        output = reply.output if reply.finish_reason in (None, "stop") else None
        timing = watch and watch.timing(reply.usage.completion_tokens)
        return replace(reply, output=output, timing=timing)

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        event = await super().__anext__()
        self._builder.add(event)
        self._over = isinstance(event, Done)
        return event

    async def result(self) -> Reply[Answer]:
        """Wait for the end and return the whole reply; `finish_reason` says how it ended.

        A stream that was cancelled returns what had come, with the finish reason `cancelled`.

        Raises:
            LlamaError: When the request fails.
        """
        async for _ in self:
            pass
        return self.snapshot

    def _at_end(self) -> Event:
        if self._production.failure is not None:
            raise self._with_partial(self._production.failure)
        if self._production.cancelled:
            return Done("cancelled", self.snapshot.usage)
        raise StopAsyncIteration

    def _with_partial(self, error: LlamaError) -> LlamaError:
        if isinstance(error, StreamInterrupted | DeadlineExceeded) and error.partial is None:
            error.partial = self.snapshot
        return error


class _Answering(Production[Event]):
    """Runs a request, and reads calls and the typed answer out of its text."""

    def __init__(
        self,
        backend: Answers,
        request: Request,
        form: AnswerForm | None,
        owner: set[Production[Any]] | None,
        telemetry: Telemetry | None,
        session: str,
    ) -> None:
        super().__init__(owner)
        self._backend = backend
        self._request = request
        self._form = form
        self._read_anew()
        self.metered: Metered | None = None
        self.watch: Stopwatch | None = None
        self._telemetry = telemetry
        self._session = session

    async def produce(self) -> None:
        self.watch = Stopwatch()
        try:
            if self._telemetry is None:
                await self._run(self._request, self.watch)
            else:
                await self._run_observed(self._telemetry, self.watch)
        finally:
            self.watch.stop()
            log_end(self._request, self.watch, self.metered)

    async def _run_observed(self, telemetry: Telemetry, watch: Stopwatch) -> None:
        with telemetry.request(self._request, self._backend.capabilities, self._session) as observed:
            try:
                request = replace(self._request, trace_headers=tuple(observed.headers.items()))
                await self._run(request, watch, observed)
            except Exception as error:  # noqa: BLE001 - the hook sees the error that the reader gets
                one = self.explained(error)
                raise one from one.__cause__
            finally:
                if self.metered is not None:
                    observed.cost(self.metered.usage)

    async def _run(self, request: Request, watch: Stopwatch, observed: ObservedRequest | None = None) -> None:
        async with AsyncExitStack() as stack:
            block = self._backend.open(request)
            self.metered = block if isinstance(block, Metered) else None
            events = await stack.enter_async_context(block)
            async for event in events:
                if watch.first is None:
                    watch.note(event)
                if self._output is not None and isinstance(event, Done) and event.usage is not None:
                    await self.queue.put(UsageUpdate(event.usage))  # known even if the answer does not fit
                for made in self._read(event):
                    if observed is not None:
                        observed.saw(made)
                    await self.queue.put(made)
                if isinstance(event, Done):
                    watch.stop()
                    return
        raise StreamInterrupted("The backend ended its events without saying that the reply is complete.")

    def _read_anew(self) -> None:
        request, form = self._request, self._form
        reads = may_call(request) and not getattr(self._backend, "reads_calls", False)
        self._calls = CallEvents(request.tools, call_ids(request)) if reads else None
        self._output = OutputReader(form) if form is not None else None

    def _read(self, event: Event) -> Iterable[Event]:
        """Read calls and the typed answer out of the text."""
        if isinstance(event, Switched) and event.withdrawn:
            self._read_anew()
        events = self._calls.add(event) if self._calls else [event]
        if self._output is None:
            return events
        return [made for each in events for made in self._output.add(each)]

    def explained(self, error: BaseException) -> LlamaError:
        return one_error(error, self._backend.capabilities.name, self._request.request_id)


def log_end(request: Request, watch: Stopwatch, metered: Metered | None) -> None:
    """Log one line on a request that ended; never what was said in it."""
    if _LOG.isEnabledFor(logging.DEBUG):
        usage = metered.usage if metered is not None else None
        timing = watch.timing(usage.completion_tokens if usage is not None else 0)
        _LOG.debug("Request %s ended: %s, %s.", request.request_id, timing, usage)


def one_error(error: BaseException, backend: str, request_id: str) -> LlamaError:
    """Return the one error that stands for a failure of a backend; a group of one is that one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if not isinstance(error, LlamaError):
        fault = ServerFault(f"The backend {backend!r} failed with {type(error).__name__}; see __cause__.")
        fault.__cause__ = error
        error = fault
    error.backend = error.backend or backend
    error.request_id = error.request_id or request_id
    return error
