"""Connections to one server, each owned by one request at a time, so that none can get lost.

An httpx transport upon httpcore's single connections instead of its pool, which in httpcore 1.0.9 loses places when
requests are cancelled (https://github.com/encode/httpcore/issues/1093). Here a connection belongs to a response
until that is closed. It is then kept, if the answer was read to its end and no byte followed it, or closed in a
task that no cancellation cuts.

This module can go when a released httpcore has that issue mended and `tests/http/test_http_cancel.py` passes over
its own pool.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, cast

import anyio
import httpcore
import httpx

from llama4_http.plain_stream import connect, connects_to
from llama4sdk.owned_task import in_asyncio

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

_KEEP = 30.0  # seconds for which an idle connection is kept


class OneServer(httpx.AsyncBaseTransport):
    """Speaks HTTP/1.1 with the servers that it is asked for, over direct connections.

    Args:
        tls: The certificates that https is checked with; None for http alone.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._networks = {b"http": _Network(tls=False), b"https": _Network(tls=True)}
        self._idle: list[httpcore.AsyncHTTPConnection] = []
        self._busy: set[httpcore.AsyncHTTPConnection] = set()

    @property
    def busy(self) -> int:
        """Connections that belong to a request now."""
        return len(self._busy)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over an idle connection or a new one.

        Raises:
            Exception: Any of httpcore's or the network's; nothing is translated here.
        """
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        connection = await self._connection(target.origin)
        self._busy.add(connection)
        try:
            answer = await connection.handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=target,
                    headers=request.headers.raw,
                    content=_Content(request.content),
                    extensions=request.extensions,
                )
            )
        except BaseException:
            await uncut(lambda: self._let_go(connection))
            raise
        body = _Body(answer, lambda: self._let_go(connection))
        return httpx.Response(
            answer.status, headers=answer.headers, stream=body, extensions=answer.extensions, request=request
        )

    async def aclose(self) -> None:
        """Close every connection, also those in use."""
        for connection in [*self._idle, *self._busy]:
            await uncut(connection.aclose)
        self._idle.clear()
        self._busy.clear()

    async def _connection(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.can_handle_request(origin) and not connection.has_expired() and connection.is_idle():
                return connection
            await uncut(connection.aclose)
        return httpcore.AsyncHTTPConnection(
            origin, ssl_context=self._tls, keepalive_expiry=_KEEP, network_backend=self._networks.get(origin.scheme)
        )

    async def _let_go(self, connection: httpcore.AsyncHTTPConnection) -> None:
        if connection not in self._busy:
            return
        self._busy.discard(connection)
        if connection.is_idle() and not _holds_unread_bytes(connection):
            self._idle.append(connection)
        else:
            await connection.aclose()


def _holds_unread_bytes(connection: httpcore.AsyncHTTPConnection) -> bool:
    """Return whether bytes were read beyond the end of the answer: they would be taken for the next one.

    Bytes that are still in the socket are noticed by `has_expired()`. Those in h11's buffer httpcore does not show.
    """
    parser = getattr(getattr(connection, "_connection", None), "_h11_state", None)
    return parser is None or parser.trailing_data[0] != b""


class _Body(httpx.AsyncByteStream):
    """The bytes of an answer, straight from httpcore."""

    def __init__(self, answer: httpcore.Response, let_go: Callable[[], Awaitable[None]]) -> None:
        self._answer = answer
        self._let_go = let_go

    def __aiter__(self) -> AsyncIterator[bytes]:
        stream = self._answer.stream
        if not isinstance(stream, AsyncIterable):
            raise httpx.StreamClosed
        return aiter(stream)

    async def aclose(self) -> None:
        await uncut(self._finish)

    async def _finish(self) -> None:
        try:
            await self._answer.aclose()  # the connection turns idle where the answer was read to its end
        finally:
            await self._let_go()


class _Content(AsyncIterator[bytes]):
    """A request's body in one piece; no generator, which a cancellation would leave unfinished."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data or None

    def __aiter__(self) -> _Content:
        return self

    async def __anext__(self) -> bytes:
        data, self._data = self._data, None
        if data is None:
            raise StopAsyncIteration
        return data


class _Network(httpcore.AsyncNetworkBackend):
    """anyio's sockets, closed also when a cancellation falls into the TLS handshake; without TLS our own on asyncio."""

    def __init__(self, *, tls: bool) -> None:
        self._tls = tls
        self._sockets = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        plain = not (self._tls or timeout is not None or local_address is not None or socket_options)
        if plain and in_asyncio() and connects_to(host):
            return await connect(host, port)
        return _Stream(await self._sockets.connect_tcp(host, port, timeout, local_address, socket_options))


class _Stream(httpcore.AsyncNetworkStream):
    """A TCP stream that cleans up after a failed handshake."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self.read = stream.read
        self.write = stream.write
        self.aclose = stream.aclose
        self.get_extra_info = stream.get_extra_info

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await uncut(self._stream.aclose)
            raise


async def uncut(work: Callable[[], Awaitable[None]]) -> None:
    """Close something to its end, in a task of its own, whatever cancels the caller meanwhile."""

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            try:
                await work()
            except BROKEN:
                return  # broken before: there is nothing left to close

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shielded)


# The errors of httpx, httpcore and the layers below them when a connection fails.
BROKEN = (
    httpx.HTTPError,
    httpx.StreamError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    OSError,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
)
