"""Requests to one server: sent with our headers, through a gate, and so that a cancellation loses nothing."""

from __future__ import annotations

import logging
import math
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import httpx

from llama4_http.errors import MAX_ERROR_BODY, Sent, error_for_exception, named
from llama4_http.surplus import WatchedStream
from llama4_http.transport import BROKEN, OneServer, uncut

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

log = logging.getLogger("llama4_http")


class Link:
    """The way to one server: connections, a gate in front of them, and the headers of every request.

    Args:
        carrier: Our transport, or a caller's client whose pool is at least as wide as `width`.
        width: Most requests under way at once.
        key: Sent as a bearer token where asked for.
        owned: Whether closing the link closes the carrier.
    """

    def __init__(
        self, carrier: OneServer | httpx.AsyncClient, width: int, key: str | None, *, owned: bool = True
    ) -> None:
        self._carrier = carrier
        self._owned = owned
        self.gate = anyio.Semaphore(width, max_value=width)
        self._width = width
        self._key = key

    @property
    def held(self) -> int:
        """How many of the places are taken."""
        return self._width - self.gate.value

    async def fetch(
        self,
        method: str,
        url: str,
        sent: Sent,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        with_key: bool = True,
        most: int = MAX_ERROR_BODY,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and the body of one short exchange, at most `most` bytes of it.

        Raises:
            LlamaError: When there is no answer.
        """
        request = self.request(method, url, content, headers or {}, with_key=with_key)
        async with self.gate:
            with translated(sent):
                response = await Opening(self, request).answer()
                try:
                    return response.status_code, dict(response.headers), await beginning(response, most)
                finally:
                    await uncut(response.aclose)

    def request(
        self, method: str, url: str, content: bytes | None, headers: Mapping[str, str], *, with_key: bool = True
    ) -> httpx.Request:
        """Return a request with our headers; the key only `with_key`."""
        own = {"Accept-Encoding": "identity", "User-Agent": "llama4sdk"}
        if content is not None:
            own["Content-Type"] = "application/json"
        if with_key and self._key is not None:
            own["Authorization"] = f"Bearer {self._key}"
        headers = {**own, **headers}
        if isinstance(self._carrier, OneServer):
            return httpx.Request(method, url, content=content, headers=headers)
        return self._carrier.build_request(method, url, content=content, headers=headers, timeout=None)

    @property
    def loses_places(self) -> bool:
        """Whether connections come from httpcore's pool.

        A transport that opens none (a mock, a replay) reports no phases and has no places to lose.
        """
        mounted = getattr(self._carrier, "_mounts", None) or {}
        transports = [getattr(self._carrier, "_transport", None), *mounted.values()]
        return any(isinstance(transport, httpx.AsyncHTTPTransport) for transport in transports)

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request up to the headers of its answer."""
        if isinstance(self._carrier, OneServer):
            return await self._carrier.handle_async_request(request)
        response = await self._carrier.send(request, stream=True, follow_redirects=False)
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = WatchedStream(response.stream)
        return response

    async def aclose(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self._owned:
            await uncut(self._carrier.aclose)


class Opening:
    """Sends a request up to the headers of its answer, within the connect deadline.

    httpcore's own pool, as a caller's client has it, loses a place when a request is cancelled between
    getting it and using it, or while it waits for one. So the gate stands in front of it, and the work
    runs in a task of its own: the "trace" extension of httpx reports when it waits for the network, and
    only then can a cancellation reach it.

    Args:
        link: The way to the server.
        request: The request.
        connect: Seconds until a connection must stand.
    """

    def __init__(self, link: Link, request: httpx.Request, connect: float | None = None) -> None:
        self._link = link
        self._request = request
        self._connect_until = math.inf if connect is None else anyio.current_time() + connect
        self._guarded = link.loses_places
        self._scope = anyio.CancelScope(shield=self._guarded)
        self.response: httpx.Response | None = None
        self.failure: Exception | None = None
        self.sent = False
        """Whether the request began to go out, so that the server may have begun to work on it."""
        self.too_slow = False
        """Whether the connect deadline passed."""

    async def answer(self) -> httpx.Response:
        """Send, and return the answer or raise the error of httpx."""
        await self.run()
        if self.response is None:
            raise self.failure or httpx.ReadError("no answer")
        return self.response

    async def run(self) -> None:
        """Send, and keep the answer or the failure."""
        self._request.extensions["trace"] = self._trace
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send)
        except BaseException:
            if self.response is not None:
                await uncut(self.response.aclose)
                self.response = None
            raise

    async def _send(self) -> None:
        try:
            with self._scope:
                self.response = await self._link.send(self._request)
        except Exception as error:  # noqa: BLE001 - carried to the other task
            self.failure = error
        self.too_slow = self._scope.cancelled_caught

    async def _trace(self, name: str, info: object) -> None:
        layer, _, step = name.partition(".")
        waits = step.endswith(".started") and not step.startswith("response_closed")
        self._scope.shield = self._guarded and not waits
        self._scope.deadline = self._connect_until if waits and layer == "connection" else math.inf
        self.sent = self.sent or step.startswith("send_request_headers")


@contextmanager
def translated(sent: Sent, *, quiet: bool = False) -> Generator[None]:
    """Turn failures of the network into the error tree; drop them where `quiet`."""
    try:
        yield
    except BROKEN as error:
        if not quiet:
            raise named(error_for_exception(error, begun=False, address=sent.address), sent) from error


async def beginning(response: httpx.Response, most: int = MAX_ERROR_BODY) -> bytes:
    """Return the first bytes of an answer, at most `most`, compressed ones unpacked as far."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk[: most - len(body)]
        if len(body) >= most:
            break
    return _unpacked(bytes(body), most) if is_encoded(response) else bytes(body)


def _unpacked(body: bytes, most: int) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, most)  # gzip or zlib, by its first bytes
    except zlib.error:
        return body


def is_encoded(response: httpx.Response) -> bool:
    """Return whether an answer is compressed."""
    return response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", "")
