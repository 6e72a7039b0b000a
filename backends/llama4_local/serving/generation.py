"""One request on its way through the backend."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio import to_thread

from llama4_local.engine.mailbox import Mailbox
from llama4_local.engine.request import Prefix
from llama4_local.serving.prepare import prepare
from llama4sdk.backend import keep_deadlines
from llama4sdk.errors import InvalidRequest, LlamaError
from llama4sdk.events import Done, Event, Started

if TYPE_CHECKING:
    from llama4_local.engine.request import EngineRequest
    from llama4_local.serving.engine_thread import EngineThread
    from llama4_local.serving.readiness import ServedModel
    from llama4sdk.request import Request

_ROOM = 64  # events that may wait for a slow reader


class Host(Protocol):
    """What a run needs of its backend."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    def running(self) -> tuple[EngineThread, ServedModel]:
        """Return what serves requests here and now, or raise a `LlamaError`."""
        ...


class Generation(AsyncIterator[Event]):
    """A block to enter, and the request's events.

    Dropped without leaving the block, it stops the work all the same, with a `ResourceWarning`.

    Args:
        host: Where it runs.
        request: What to run.
        prefix: What it goes on from.
        answers: Whether an answer is to be written.
        finished: Called with the order when it is done.
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
        self._worker: EngineThread | None = None
        self._order: EngineRequest | None = None
        self._begun = False
        self._over = False

    async def __aenter__(self) -> AsyncIterator[Event]:
        if self._worker is not None or self._over:
            raise InvalidRequest("A request's block is entered once; call open() again.")
        self._worker, _ = self._host.running()
        return keep_deadlines(self, self._request.deadlines, backend="local", request_id=self._request.request_id)

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
            raise

    async def _next(self) -> Event:
        if not self._begun:
            self._begun = True
            await anyio.lowlevel.checkpoint()
            return Started(self._request.request_id, "local", self._host.name)
        order = self._order or await self._submit()
        letter = await order.mailbox.take()
        if isinstance(letter, LlamaError):
            raise letter
        if isinstance(letter, Done):
            self._over = True
            if self._finished:
                self._finished(order)
        return letter

    async def _submit(self) -> EngineRequest:
        worker, ready = self._host.running()
        work = partial(prepare, prefix=self._prefix, answers=self._answers)
        mailbox = Mailbox(_ROOM, worker.wake)
        order = await to_thread.run_sync(work, ready, self._request, mailbox, abandon_on_cancel=True)
        worker.submit(order)
        self._order = order
        return order

    def _stop(self) -> None:
        """End the work behind this request, if any is left."""
        if self._worker is not None and self._order is not None and not self._over:
            self._worker.cancel(self._order)
        self._over = True

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_worker", None) is not None and not self._over:
            warn(
                f"The request {self._request.request_id} was dropped without leaving its block.",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self._stop()
