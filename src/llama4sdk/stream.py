"""A running request: its events, the reply so far, and a way to stop it."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import anyio

from llama4sdk.backend import Metered
from llama4sdk.bounded_queue import BoundedQueue
from llama4sdk.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LlamaError,
    ServerFault,
    StreamInterrupted,
)
from llama4sdk.events import Done, Event, Switched, TextDelta, UsageUpdate
from llama4sdk.output import AnswerForm, OutputReader
from llama4sdk.owned_task import running_loop, start_owned
from llama4sdk.reply import Answer, Reply, ReplyBuilder
from llama4sdk.timing import Stopwatch
from llama4sdk.tools.events import CallEvents, call_ids, may_call

if TYPE_CHECKING:
    from types import TracebackType

    from llama4sdk.backend import Answers
    from llama4sdk.request import Request
    from llama4sdk.telemetry.hook import ObservedRequest, Telemetry

E = TypeVar("E")
_LOG = logging.getLogger("llama4sdk")

# Events that may wait for a slow reader before the backend has to wait as well.
_BUFFERED_EVENTS = 32


class Pumped(AsyncIterator[E], Generic[E]):
    """Events that are made in a task of the event loop's own, so that `cancel()` works at once, from any task.

    The block may be left in another task than the one that entered it, as an async generator around it is when it is
    finalized, and under any cancel scope. Leaving it early stops the production. A slow reader delays only its own
    events.

    Args:
        what: Its name in messages, as `stream`.
        owner: The client's running streams, which end with the client.
    """

    def __init__(self, what: str, owner: set[Pumped[Any]] | None = None) -> None:
        self._what = what
        self._owner: set[Pumped[Any]] = set() if owner is None else owner
        self._home: object = None  # where it was entered
        self._task: object = None
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._queue = BoundedQueue[E](_BUFFERED_EVENTS)
        self._failure: LlamaError | None = None
        self._cancelled = False

    @abstractmethod
    async def _produce(self) -> None:
        """Put every event into `self._queue`; what is raised reaches the reader as one `LlamaError`."""

    @abstractmethod
    def _explained(self, error: BaseException) -> LlamaError:
        """Return the one error that the reader gets."""

    @abstractmethod
    def _at_end(self) -> E:
        """Return the event that follows the last one; raise `StopAsyncIteration` where there is none."""

    async def __aenter__(self) -> Self:
        if self._home is not None:
            raise InvalidRequest(f"A {self._what} runs once; ask for another with llama.{self._what}(…).")
        self._home = running_loop()
        self._owner.add(self)
        self._task = start_owned(self._pump)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._home is None:
            return
        if running_loop() != self._home:  # its loop has ended, and with it the task
            self._queue.close()
            return
        self._scope.cancel()
        try:
            with anyio.CancelScope(shield=True):
                await self._ended.wait()
        finally:
            self._queue.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        if running_loop() is not self._home:
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
        self._scope.cancel()
        await self._ended.wait()

    async def ended(self) -> None:
        """Stop the production, and wait for its end; does nothing in another event loop than its own."""
        if self._home is not None and running_loop() == self._home:
            self._scope.cancel()
            await self._ended.wait()

    def _check_loop(self) -> None:
        if self._home is None:
            raise InvalidRequest(f"Enter the {self._what} first: async with llama.{self._what}(…) as {self._what}.")
        if running_loop() != self._home:
            raise InvalidRequest(
                f"This {self._what} belongs to another event loop; read it in the loop that entered it."
            )

    async def _pump(self) -> None:
        completed = False
        try:
            with self._scope:
                await self._produce()
                completed = True
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the edge where every failure becomes one error
            self._failure = self._explained(error)
        finally:
            self._cancelled = self._scope.cancelled_caught
            if not (completed or self._cancelled or self._failure):  # a cancellation from elsewhere
                self._failure = self._explained(StreamInterrupted("What ran behind it was cancelled from elsewhere."))
            self._owner.discard(self)
            self._queue.end()
            self._ended.set()


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
        owner: set[Pumped[Any]] | None = None,
        telemetry: Telemetry | None = None,
        session: str = "",
    ) -> None:
        super().__init__("stream", owner)
        if request.sampling.n != 1:
            raise InvalidRequest("A stream is one answer; n of Sampling is for chat() without a session.")
        self._backend = backend
        self._request = request
        self._builder = ReplyBuilder()
        self._form = form
        self._read_anew()
        self._over = False
        self._metered: Metered | None = None
        self._watch: Stopwatch | None = None
        self._telemetry = telemetry
        self._session = session

    @property
    def request(self) -> Request:
        """Its request."""
        return self._request

    @property
    def snapshot(self) -> Reply[Any]:
        """The reply as far as it was read; its `finish_reason` is None until it is complete.

        Until then its `output` is plain JSON data, as in `Partial`.
        """
        reply = self._builder.snapshot()
        if reply.finish_reason in (None, "cancelled") and not reply.usage.total_tokens and self._metered is not None:
            reply = replace(reply, usage=self._metered.usage)
        # What was read of a typed answer that did not come to its end is not the answer.
        output = reply.output if reply.finish_reason in (None, "stop") else None
        timing = self._watch and self._watch.timing(reply.usage.completion_tokens)
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

    async def _produce(self) -> None:
        self._watch = Stopwatch()
        try:
            if self._telemetry is None:
                await self._run(self._request, self._watch)
            else:
                await self._run_observed(self._telemetry, self._watch)
        finally:
            self._watch.stop()
            log_end(self._request, self._watch, self._metered)

    async def _run_observed(self, telemetry: Telemetry, watch: Stopwatch) -> None:
        with telemetry.request(self._request, self._backend.capabilities, self._session) as observed:
            try:
                request = replace(self._request, trace_headers=tuple(observed.headers.items()))
                await self._run(request, watch, observed)
            except Exception as error:  # noqa: BLE001 - the hook sees the error that the reader gets
                one = self._explained(error)
                raise one from one.__cause__
            finally:
                if self._metered is not None:
                    observed.cost(self._metered.usage)

    async def _run(self, request: Request, watch: Stopwatch, observed: ObservedRequest | None = None) -> None:
        async with AsyncExitStack() as stack:
            block = self._backend.open(request)
            self._metered = block if isinstance(block, Metered) else None
            events = await stack.enter_async_context(block)
            async for event in events:
                if watch.first is None:
                    watch.note(event)
                if self._output is not None and isinstance(event, Done) and event.usage is not None:
                    await self._queue.put(UsageUpdate(event.usage))  # known even if the answer does not fit
                for made in self._read(event):
                    if observed is not None:
                        observed.saw(made)
                    await self._queue.put(made)
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

    def _explained(self, error: BaseException) -> LlamaError:
        return one_error(error, self._backend.capabilities.name, self._request.request_id)

    def _at_end(self) -> Event:
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

    def __init__(self, events: AsyncIterator[object]) -> None:
        self._events = events

    async def __anext__(self) -> str:
        while True:
            event = await self._events.__anext__()
            if isinstance(event, TextDelta):
                return event.text


def log_end(request: Request, watch: Stopwatch, metered: Metered | None) -> None:
    """Log one line on a request that ended; never what was said in it."""
    if _LOG.isEnabledFor(logging.DEBUG):
        usage = metered.usage if metered is not None else None
        _LOG.debug("Request %s ended: %s, %s.", request.request_id, watch.timing(0), usage)


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
