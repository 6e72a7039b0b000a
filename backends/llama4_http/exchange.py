"""One request under way: sent, and again where `retry` allows it, then read event by event, then closed."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import httpx

from llama4_http import prompt
from llama4_http.answer import AnswerReader
from llama4_http.begun_answer import left_out
from llama4_http.composing import compose
from llama4_http.errors import compressed, error_for_exception, error_for_status, keep_partial, named
from llama4_http.network import Link, Opening, beginning, is_encoded, log, translated
from llama4_http.profiles import poll_id
from llama4_http.rate_limits import rate_limits
from llama4_http.retry import ANSWERED, retried_status
from llama4_http.transport import BROKEN, uncut
from llama4sdk.deadline_clock import Clock
from llama4sdk.errors import LlamaError, ServerFault
from llama4sdk.events import Done, Event, Progress, Started, Usage
from llama4sdk.lazy_timer import LazyTimer
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from types import TracebackType

    from llama4_http.context import Context
    from llama4_http.errors import Sent
    from llama4_http.outgoing import Outgoing
    from llama4_http.retry import Retries
    from llama4sdk.errors import Phase
    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.request import Request

_GRACE = 2.0  # seconds in which token counts may follow the finish reason
_DRAIN = 0.05  # seconds in which a complete answer must end for its connection to be kept
_ERROR_BODY = 1.0  # seconds for the body of an error
_POLL = 1.0  # seconds between two questions for an answer that takes long


class Exchange(AsyncIterator[Event]):
    """One request under way: its deadlines, its answer so far, and the connection that it holds.

    Args:
        prepare: Returns the context of the request, once the server's kind is known.
        sent: The request, for errors.
        request: The request.
    """

    def __init__(self, prepare: Callable[[], Awaitable[Context]], sent: Sent, request: Request) -> None:
        self._prepare = prepare
        self._context: Context | None = None
        self._request = request
        begun = anyio.current_time()
        self._ahead = begun - time.monotonic()  # of the event loop's clock, which is slow to read for every chunk
        self._clock = Clock(request.deadlines, begun)
        self.kept_deadlines = request.deadlines
        self._timer = LazyTimer()
        self._ready: deque[Event] = deque()
        self._failure: LlamaError | None = None
        self._reader: AnswerReader | None = None
        self._response: httpx.Response | None = None
        self._bytes: AsyncIterator[bytes] | None = None
        self._scope: anyio.CancelScope | None = None
        self._link: Link | None = None  # one of whose places this request holds
        self._received = 0
        self._sent = sent
        self._aborted: LlamaError | None = None

    def __aiter__(self) -> Exchange:
        return self

    async def __anext__(self) -> Event:
        if not self._ready:
            await self._wait()
        return self._ready.popleft()

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt and of the answer so far, as far as the server told them."""
        return Usage() if self._reader is None else self._reader.usage

    def abort(self, error: LlamaError) -> None:
        """End the request from outside; its reader gets `error`."""
        self._aborted = error
        if self._scope is not None:
            self._scope.cancel()

    async def aclose(self) -> None:
        """Give the connection back; it is kept only at the clean end of an answer."""
        try:
            if self._response is not None and self._reader is not None and self._reader.done:
                await self._drain(self._response)
        finally:
            self._timer.close()
            await self._release()
            log.debug("%s closed, %d bytes", self._request.request_id, self._received)

    async def _drain(self, response: httpx.Response) -> None:
        if self._bytes is None or response.is_closed:
            return
        with anyio.move_on_after(_DRAIN), translated(self._sent, quiet=True):
            async for _ in self._bytes:
                return  # more than the end: not worth reading

    async def _release(self) -> None:
        response, self._response = self._response, None
        try:
            if response is not None:
                await uncut(response.aclose)
        finally:
            link, self._link = self._link, None
            if link is not None:
                link.gate.release()

    async def _wait(self) -> None:
        """Wait until events are ready; raises the error that ended them."""
        if self._failure is not None:
            raise self._failure
        if self._reader is not None and self._reader.done:
            raise StopAsyncIteration
        phase, until = self._clock.limit(time.monotonic() + self._ahead)
        with self._timer.scope(until) as self._scope:
            try:
                await self._work(self._scope)
            except LlamaError as error:
                self._fail(error)
        if self._scope.cancelled_caught:
            self._out_of_time(phase)
        if not self._ready and self._failure is not None:
            raise self._failure

    async def _work(self, scope: anyio.CancelScope) -> None:
        if self._aborted is not None:
            raise self._aborted
        while not self._ready:
            if self._reader is None:
                await self._begin()
            else:
                await self._receive(self._reader, scope)
        if not self._clock.answering:
            self._clock.answering = not all(isinstance(event, Started | Progress) for event in self._ready)
        last = self._ready[-1]
        if isinstance(last, Done) and last.usage is None and self._context is not None and self._context.template:
            self._ready[-1] = await self._counted(last, self._context.template)

    def _out_of_time(self, phase: Phase) -> None:
        try:
            if self._aborted is not None:
                raise self._aborted
            if self._ready:
                return  # a complete answer, whose tokens could not be counted in time
            if self._reader is not None and self._reader.finished:
                self._reader.finish()  # only the counts are missing
                return
            self._fail(self._clock.exceeded(phase))
        except LlamaError as error:
            self._fail(error)

    def _fail(self, error: LlamaError) -> None:
        named(error, self._sent)
        if self._reader is not None:
            keep_partial(error, self._reader.partial())
        self._failure = error

    async def _receive(self, reader: AnswerReader, scope: anyio.CancelScope) -> None:
        if self._bytes is None:
            raise ServerFault("The answer's bytes are gone.")
        try:
            chunk = await self._bytes.__anext__()
        except StopAsyncIteration:
            reader.end()
            return
        except BROKEN as error:
            failure = error_for_exception(error, begun=True)
            failure.__cause__ = error
            reader.broken_off(failure)
            return
        self._received += len(chunk)
        reader.feed(chunk)
        if reader.finished and not self._ready:
            scope.deadline = min(scope.deadline, anyio.current_time() + _GRACE)

    async def _begin(self) -> None:
        self._context = context = await self._prepare()
        posted = await compose(context, self._request, self._sent)
        self._sent = replace(self._sent, body=posted.body)
        for attempt in itertools.count(1):
            error, again = await self._attempt(context, posted)
            if error is None:
                return
            left = self._clock.limit(anyio.current_time())[1] - anyio.current_time()
            wait = context.settings.retries.wait_before(
                attempt, retry_after=getattr(error, "retry_after", None), left=left
            )
            if not again or wait is None:
                raise error
            log.debug("%s retry %d", self._request.request_id, attempt)
            await anyio.sleep(wait)

    async def _attempt(self, context: Context, posted: Outgoing) -> tuple[LlamaError | None, bool]:
        """Send once; return the error, if any, and whether sending again may help."""
        link, status_url = context.link, context.profile.status_url
        await link.gate.acquire()
        self._link = link
        try:
            request = link.request("POST", context.url + posted.path, posted.body, posted.headers)
            opening = Opening(link, request, self._request.deadlines.connect)
            await opening.run()
            self._response = response = opening.response
            log.debug("%s sent, %d bytes", self._request.request_id, len(posted.body))
            if response is None:
                return self._not_answered(opening, context.settings.retries)
            if response.status_code == 202 and status_url:
                self._response = response = await self._polled(link, response, status_url)
            if response.status_code not in ANSWERED or is_encoded(response):
                return await self._refused(response)
            self._read(context, response, posted)
            return None, False
        finally:
            if self._reader is None:
                await self._release()

    def _read(self, context: Context, response: httpx.Response, posted: Outgoing) -> None:
        settings, ours = context.settings, posted.prompt_ids
        limits = rate_limits(response.headers)
        self._reader = AnswerReader(
            self._sent,
            self._ready,
            max_event=settings.max_event_bytes,
            max_answer=settings.max_answer_bytes,
            image_tokens=posted.image_tokens,
            details={**posted.details, **({"rate_limits": limits} if limits else {})},
            check_prompt=None
            if ours is None or not settings.verify_prompt
            else (lambda theirs: prompt.compare(ours, theirs)),
            tools=() if self._request.tool_choice == "none" else self._request.tools,
            repeated=""
            if settings.prompt_mode == "client" or self._request.raw is not None
            else left_out(settings.prefill + self._request.answer_so_far, context.profile),
        )
        # Not aiter_raw(): its layers cost a third of the time per chunk, and nothing is encoded.
        self._bytes = aiter(response.stream) if isinstance(response.stream, httpx.AsyncByteStream) else None
        self._ready.append(Started(self._request.request_id, "http", context.model))

    def _not_answered(self, opening: Opening, retries: Retries) -> tuple[LlamaError, bool]:
        if opening.too_slow:
            return named(self._clock.exceeded("connect"), self._sent), True
        failure = opening.failure or httpx.ReadError("")
        error = named(error_for_exception(failure, begun=False, address=self._sent.address), self._sent)
        error.__cause__ = failure
        return error, error.retryable and (retries.resend or not opening.sent)

    async def _refused(self, response: httpx.Response) -> tuple[LlamaError, bool]:
        body = b""
        with anyio.move_on_after(_ERROR_BODY):
            with translated(self._sent, quiet=True):
                body = await beginning(response)
        status = response.status_code
        if status in ANSWERED:
            return compressed(self._sent), False
        headers = dict(response.headers)
        return error_for_status(status, headers, body, self._sent), retried_status(status, headers)

    async def _polled(self, link: Link, response: httpx.Response, status_url: str) -> httpx.Response:
        """Ask for an answer that takes long until it is there; return the response that holds it."""
        while response.status_code == 202:
            url = f"{status_url}/{poll_id(response.headers)}"
            await uncut(response.aclose)
            await anyio.sleep(_POLL)
            with translated(self._sent):
                request = link.request("GET", url, None, {})
                self._response = response = await Opening(link, request).answer()
        return response

    async def _counted(self, done: Done, template: PromptTemplate) -> Done:
        text = "" if self._reader is None else self._reader.partial().text
        if self._context is None:
            return done
        settings = self._context.settings

        def count() -> Usage:
            prompt_ids = prompt.render(template, self._request, settings.prefill, show_schema=settings.show_schema)
            return Usage(len(prompt_ids), len(template.tokenizer.encode(text)))

        try:
            return Done(done.finish_reason, await run_in_daemon_thread(count), done.details)
        except LlamaError:  # an image that only the server can fetch: the answer is complete without counts
            return done


class OpenRequest(AbstractAsyncContextManager[Exchange]):
    """The block of one request, which tells what it cost; see `llama4sdk.backend.Metered`.

    Args:
        exchange: The request.
        running: The backend's running requests, of which it is one inside the block.
    """

    def __init__(self, exchange: Exchange, running: set[Exchange]) -> None:
        self._exchange = exchange
        self._running = running

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt and of the answer so far, as far as the server told them."""
        return self._exchange.usage

    async def __aenter__(self) -> Exchange:
        self._running.add(self._exchange)
        return self._exchange

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.discard(self._exchange)
        await self._exchange.aclose()
