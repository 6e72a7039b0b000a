"""The little HTTP that the misbehaving server needs, with full control over every byte."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENTS = "text/event-stream"
_MAX_HEAD = 64 * 1024
_MAX_BODY = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived.

    Args:
        method: `GET`, `POST`, …
        path: The target, as sent.
        headers: Names in lower case.
        body: Its bytes.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty when it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


class Wire:
    """One connection, seen from the server."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffered = BufferedByteReceiveStream(stream)
        self.open = True
        """Whether the connection may serve another request."""

    async def receive(self) -> Received:
        """Read one request.

        Raises:
            anyio.EndOfStream: When there is none.
        """
        head = await self._buffered.receive_until(b"\r\n\r\n", _MAX_HEAD)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = min(int(headers.get("content-length", "0")), _MAX_BODY)
        body = await self._buffered.receive_exactly(length) if length else b""
        return Received(method, path, headers, body)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._stream.send(data)

    async def head(self, status: int = 200, content_type: str | None = EVENTS, **headers: str) -> None:
        """Send a status line and headers; the body follows in chunks."""
        lines = [f"HTTP/1.1 {status} Status", "Transfer-Encoding: chunked"]
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def chunk(self, data: bytes) -> None:
        """Send one chunk of a body."""
        if data:
            await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """Send the end of a body."""
        await self.send(b"0\r\n\r\n")

    async def answer(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        """Send a whole response."""
        lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", f"Content-Type: {content_type}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def answer_json(self, status: int, value: Any, **headers: str) -> None:
        """Send a whole JSON response."""
        await self.answer(status, json.dumps(value).encode(), **headers)

    async def hang(self) -> None:
        """Do nothing until the other side is gone."""
        self.open = False
        with anyio.CancelScope():
            while True:
                await self._buffered.receive(65536)

    async def reset(self) -> None:
        """Break the connection off hard (RST), not with a clean end."""
        self.open = False
        raw = self._stream.extra_attributes.get(SocketAttribute.raw_socket)
        if raw is not None:
            raw().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await anyio.aclose_forcefully(self._stream)

    async def close(self) -> None:
        """Close the connection cleanly."""
        self.open = False
        await self._stream.aclose()
