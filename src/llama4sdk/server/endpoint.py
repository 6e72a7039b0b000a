"""An endpoint: who may ask, what is refused, and the end of every request, whatever happens to it."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import anyio
from starlette.datastructures import Headers

from llama4sdk.errors import LlamaError
from llama4sdk.server.access import check_host
from llama4sdk.server.body import ClientGone, read_body
from llama4sdk.server.chunks import DONE, event_of
from llama4sdk.server.event_stream import EventStream, until_gone
from llama4sdk.server.failures import SHUTTING_DOWN, UNEXPECTED, ApiError, Failure, failure_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import Receive, Scope, Send

    from llama4sdk.server.admission import Place
    from llama4sdk.server.serving import Serving

log = logging.getLogger("llama4sdk.server")


class Exchange:
    """One HTTP request and its response.

    Args:
        scope: The application's `scope`.
        receive: Its `receive`.
        send: Its `send`.
        write_seconds: Seconds that a chunk may wait for the client.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, write_seconds: float) -> None:
        self.receive = receive
        self.headers = Headers(scope=scope)
        self.request_id = os.urandom(16).hex()
        self._send = send
        self._own_headers = {"x-request-id": self.request_id}
        self.stream = EventStream(send, self._own_headers, write_seconds)
        self.status = 0
        """The status that was sent."""

    async def respond(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole response."""
        self.status = status
        fields = {"content-type": "application/json", **self._own_headers, **(headers or {})}
        fields["content-length"] = str(len(body))
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def fail(self, failure: Failure) -> None:
        """Send an error: as the response, or as the last event of a stream that has begun."""
        if not self.stream.begun:
            await self.respond(failure.body, failure.status, failure.headers)
            return
        await self.stream.write(event_of(failure.body) + DONE)
        await self.stream.end()


class Endpoint(ABC):
    """An ASGI application for one path.

    Args:
        serving: The server.
        path: The path, for metrics.
    """

    methods: Sequence[str] = ("POST",)

    def __init__(self, serving: Serving, path: str) -> None:
        self.serving = serving
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        serving = self.serving
        exchange = Exchange(scope, receive, send, serving.options.write_seconds)
        failure: Failure | None = None
        try:
            check_host(exchange.headers.get("host"), serving.options.allowed_hosts)
            key = serving.keys.check(exchange.headers.get("authorization"))
            with serving.admission.admit(key) as place:
                body = await read_body(receive, exchange.headers, serving.options)
                failure = await self._attended(exchange, body, place)
        except ApiError as error:
            failure = error.failure
        except ClientGone:
            serving.metrics.gone.inc()
            return
        if failure is not None:
            await exchange.fail(failure)
        status = 200 if exchange.stream.begun else exchange.status
        serving.metrics.requests.labels(self.path, str(status)).inc()

    @abstractmethod
    async def answer(self, exchange: Exchange, body: bytes) -> None:
        """Answer a request whose body has come.

        Raises:
            ApiError: It is refused.
            LlamaError: It fails.
        """

    async def _attended(self, exchange: Exchange, body: bytes, place: Place) -> Failure | None:
        """Answer while the client is there and the server is not cut off; return the failure, if any.

        Raises:
            ClientGone: The client left.
        """
        failure: Failure | None = None
        gone = True
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await until_gone(exchange.receive)
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            tasks.start_soon(exchange.stream.attend, tasks.cancel_scope.cancel)
            failure = await self._answered(exchange, body, place)
            gone = False
            tasks.cancel_scope.cancel()
        if gone:
            raise ClientGone
        return failure

    async def _answered(self, exchange: Exchange, body: bytes, place: Place) -> Failure | None:
        try:
            with place.scope:
                await self.answer(exchange, body)
        except ApiError as error:
            return error.failure
        except LlamaError as error:
            log.info("%s: %s", exchange.request_id, type(error).__name__, exc_info=error.__cause__)
            return failure_of(error)
        except Exception:
            log.exception("%s failed", exchange.request_id)
            return UNEXPECTED
        return SHUTTING_DOWN if place.was_cut and place.scope.cancelled_caught else None
