"""A TCP connection on asyncio that reads ahead, so that a chunk costs no system call but its own.

anyio's socket streams put the socket on the event loop for each read and take it off again: two system calls, a lock
and a cancel scope for every chunk. Here asyncio's transport stays on, and stops where the reader is far behind.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import httpcore

if TYPE_CHECKING:
    import ssl

_AHEAD = 1 << 16  # bytes that may wait for their reader
_INTERIM = b"HTTP/1.1 1"  # begins an answer that another follows, such as 103 Early Hints


def connects_to(host: str) -> bool:
    """Return whether a host has one address: those of other names are tried side by side, which is left to anyio."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


async def connect(host: str, port: int) -> PlainStream:
    """Return a connection.

    Raises:
        httpcore.ConnectError: There is none.
    """
    try:
        _, stream = await asyncio.get_running_loop().create_connection(PlainStream, host, port)
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error
    return stream


class PlainStream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """A connection without TLS; one task reads it at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._chunks: deque[bytes] = deque()
        self._held = 0  # bytes in `_chunks`
        self._paused = False
        self._over = False
        self._failure: Exception | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None  # while the transport takes no more
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and stop where the reader is far behind."""
        self._chunks.append(data)
        self._held += len(data)
        if self._held > _AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()
        if self._answered_early() and self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def eof_received(self) -> bool:
        """Take note of the end; the transport stays open until the stream is closed."""
        self._over = True
        self._wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end, and wake who waits."""
        self._over = True
        self._failure = exc
        self._wake()
        self.resume_writing()
        if not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        """Let writers wait."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let writers go on."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes, at most so many; none at the end.

        Raises:
            httpcore.ReadError: The connection is broken, or was closed here.
            httpcore.ReadTimeout: Nothing came in time.
        """
        if not self._chunks:
            await self._arrival(timeout)
        if not self._chunks:
            if self._failure is not None or self._transport.is_closing():
                raise httpcore.ReadError(str(self._failure or "closed")) from self._failure
            return b""
        data = self._chunks.popleft()
        if len(data) > max_bytes:
            self._chunks.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self._held -= len(data)
        if self._paused and not self._held:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes, and wait until the transport has room for more.

        Raises:
            httpcore.WriteError: The connection is broken, or was closed here; or the server answers before it has read
                everything, as it does to a wrong key before a large body. httpcore reads the answer then.
            httpcore.WriteTimeout: There is no room in time.
        """
        if self._transport.is_closing():
            raise httpcore.WriteError("The connection is closed.")
        self._transport.write(buffer)
        if (writable := self._writable) is not None:
            try:
                await asyncio.wait_for(asyncio.shield(writable), timeout)
            except TimeoutError as error:
                raise httpcore.WriteTimeout from error
            if self._failure is not None:
                raise httpcore.WriteError(str(self._failure)) from self._failure
            if self._answered_early():
                raise httpcore.WriteError("The server answered before it had read the request.")

    async def aclose(self) -> None:
        """End the connection; what was not sent yet is lost."""
        self._transport.abort()
        await asyncio.shield(self._lost)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: connections with TLS are others."""
        raise httpcore.UnsupportedProtocol("This connection is one without TLS.")

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for; `is_readable` is whether something came that nothing waits for, or the end."""
        if info == "is_readable":
            return bool(self._chunks) or self._over or self._transport.is_closing()
        names = {"socket": "socket", "client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names[info]) if info in names else None

    def _answered_early(self) -> bool:
        """Return whether something came that is no interim answer (1xx), while a request is being written."""
        return bool(self._chunks) and not _INTERIM.startswith(self._chunks[0][: len(_INTERIM)])

    async def _arrival(self, timeout: float | None) -> None:
        if self._over:
            return
        self._arrived = asyncio.get_running_loop().create_future()
        try:
            if timeout is None:
                await self._arrived
            else:
                await asyncio.wait_for(self._arrived, timeout)
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error
        finally:
            self._arrived = None

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
