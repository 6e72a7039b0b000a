"""The generation of one request: its block, its events, its end."""

from __future__ import annotations

import logging
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio

from llama4_local.engine.mailbox import Mailbox
from llama4_local.serving.prepare import prepare
from llama4sdk.backend import keep_deadlines
from llama4sdk.errors import ContextOverflow, InvalidRequest, LlamaError, Overloaded
from llama4sdk.events import Done, Event, Started, Usage
from llama4sdk.prompting.remote_images import with_fetched_images
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from types import TracebackType

    from llama4_local.engine.request import EngineRequest, Prefix
    from llama4_local.serving.engine_thread import EngineThread
    from llama4_local.serving.readiness import ServedModel
    from llama4sdk.request import Request

_LOG = logging.getLogger("llama4_local")
_ROOM = 64  # events that may wait for a slow reader


class Host(Protocol):
    """The backend, as a generation uses it."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    def running(self) -> tuple[EngineThread, ServedModel]:
        """Return the engine's thread and the served model, or raise a `LlamaError`."""
        ...


class Generation(AsyncIterator[Event]):
    """A block to enter, and the request's events.

    Garbage collected inside its block, it still stops the work, with a `ResourceWarning`.

    Args:
        host: The backend.
        request: The request.
        prefix: The session's tokens before it.
        answers: Whether tokens are sampled.
        finished: Called with the engine's request when it is done.
    """

    def __init__(
        self,
        host: Host,
        request: Request,
        *,
        prefix: Prefix | None = None,
        answers: bool = True,
        finished: Callable[[EngineRequest], None] | None = None,
    ) -> None:
        self._host = host
        self._request = request
        self._prefix = prefix
        self._answers = answers
        self._finished = finished
        self._engine_thread: EngineThread | None = None
        self._engine_request: EngineRequest | None = None
        self._begun = False
        self._over = False

    async def __aenter__(self) -> AsyncIterator[Event]:
        if self._engine_thread is not None or self._over:
            raise InvalidRequest("A request's block is entered once; call open() again.")
        engine_thread, _ = self._host.running()
        self._engine_thread = engine_thread
        return keep_deadlines(
            self,
            self._request.deadlines,
            backend="local",
            request_id=self._request.request_id,
            loading=lambda: engine_thread.loading,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        try:
            return await self._next()
        except LlamaError as error:
            self._stop()
            error.backend = error.backend or "local"
            error.request_id = error.request_id or self._request.request_id
            _log_refusal(error)
            raise

    async def _next(self) -> Event:
        if not self._begun:
            self._begun = True
            await anyio.lowlevel.checkpoint()
            return Started(self._request.request_id, "local", self._host.name)
        engine_request = self._engine_request or await self._submit()
        event = await engine_request.mailbox.take()
        if isinstance(event, LlamaError):
            raise event
        if isinstance(event, Done):
            self._over = True
            if self._finished:
                self._finished(engine_request)
        return event

    async def _submit(self) -> EngineRequest:
        engine_thread, served = self._host.running()
        work = partial(prepare, prefix=self._prefix, answers=self._answers)
        mailbox = Mailbox(_ROOM, engine_thread.wake)
        messages = await with_fetched_images(self._request.messages, served.template.image_limits, served.max_images)
        request = replace(self._request, messages=messages)
        engine_request = await run_in_daemon_thread(partial(work, served, request, mailbox))
        engine_thread.submit(engine_request)
        self._engine_request = engine_request
        return engine_request

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt, and those of the answer so far; none before the prompt is rendered."""
        request = self._engine_request
        return Usage() if request is None else request.usage

    def _stop(self) -> None:
        """Cancel the engine's request, if it is not over."""
        if self._engine_thread is not None and self._engine_request is not None and not self._over:
            self._engine_thread.cancel(self._engine_request)
        self._over = True

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_engine_thread", None) is not None and not self._over:
            self._stop()  # before the warning, which may be an error
            warn(
                f"The request {self._request.request_id} was dropped without leaving its block.",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


def _log_refusal(error: LlamaError) -> None:
    """Log a request that is not taken; the words of an error are left out where they may quote the request."""
    if isinstance(error, ContextOverflow | Overloaded):
        _LOG.info("Request %s is refused: %s", error.request_id, error)
    elif isinstance(error, InvalidRequest):
        _LOG.info("Request %s is refused: %s.", error.request_id, type(error).__name__)
