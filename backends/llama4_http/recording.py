"""HTTP exchanges recorded and replayed byte by byte, as httpx transports.

    async with httpx.AsyncClient(transport=RecordingTransport("tests/recorded")) as client:
        HttpBackend(url, model=…, client=client)

Recordings hold no request headers, no request bodies (only their digest), and none of the response's
headers but those about its encoding: no key, prompt or cookie can get into them. On replay, reads can
be cut elsewhere, delayed as they were, or broken off.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio
import httpx

from llama4_http.transport import BROKEN, OneServer
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from os import PathLike

_KEPT = ("content-type", "content-encoding", "retry-after", "location", "server", "nvcf-reqid")


@dataclass(frozen=True, slots=True)
class Injected:
    """Faults on replay.

    Args:
        after_bytes: How much of the body comes before it.
        kind: `reset` breaks the connection off, `end` ends the body cleanly, `stall` sends nothing more.
    """

    after_bytes: int
    kind: Literal["reset", "end", "stall"] = "reset"


class RecordingTransport(httpx.AsyncBaseTransport):
    """Sends through another transport and writes down what comes back.

    Args:
        folder: Where the recordings go; made when missing.
        inner: Who sends; direct connections when left out.
    """

    def __init__(self, folder: str | PathLike[str], inner: httpx.AsyncBaseTransport | None = None) -> None:
        self._folder = Path(folder)
        self._inner = inner or OneServer(httpx.create_ssl_context())
        self._seen: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and record its answer when that is closed."""
        name = exchange_name(request)
        number, self._seen[name] = self._seen[name], self._seen[name] + 1
        path = self._folder / f"{name}-{number}.json"
        response = await self._inner.handle_async_request(request)
        response.stream = _Recorded(response, path)
        return response

    async def aclose(self) -> None:
        """Close the transport inside."""
        await self._inner.aclose()


class _Recorded(httpx.AsyncByteStream):
    def __init__(self, response: httpx.Response, path: Path) -> None:
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise InvalidRequest("Only asynchronous transports can be recorded.")
        self._stream = response.stream
        self._response = response
        self._path = path
        self._begun = anyio.current_time()
        self._chunks: list[tuple[float, str]] = []
        self._end = "left"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                seconds = round(anyio.current_time() - self._begun, 6)
                self._chunks.append((seconds, base64.b64encode(chunk).decode("ascii")))
                yield chunk
            self._end = "clean"
        except BROKEN:
            self._end = "broken"
            raise

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            headers = {name: self._response.headers[name] for name in _KEPT if name in self._response.headers}
            recorded_answer = {
                "status": self._response.status_code,
                "headers": headers,
                "end": self._end,
                "chunks": self._chunks,
            }
            with anyio.CancelScope(shield=True):
                await anyio.Path(self._path.parent).mkdir(parents=True, exist_ok=True)
                await anyio.Path(self._path).write_text(json.dumps(recorded_answer, indent=1) + "\n", encoding="utf-8")


class ReplayTransport(httpx.AsyncBaseTransport):
    """Answers from recordings; the n-th equal request gets the n-th answer, then the last again.

    Args:
        folder: Where a `RecordingTransport` wrote.
        timing: Whether chunks come when they came then.
        read_size: Cut the body into reads of so many bytes; as recorded when None.
        injected: What goes wrong.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        timing: bool = False,
        read_size: int | None = None,
        injected: Injected | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._timing = timing
        self._read_size = read_size
        self._injected = injected
        self._seen: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the recorded answer to a request.

        Raises:
            InvalidRequest: When nothing was.
        """
        await anyio.lowlevel.checkpoint()
        name = exchange_name(request)
        number, self._seen[name] = self._seen[name], self._seen[name] + 1
        for place in range(number, -1, -1):
            path = anyio.Path(self._folder / f"{name}-{place}.json")
            if await path.exists():
                recorded_answer = json.loads(await path.read_text("utf-8"))
                return httpx.Response(
                    recorded_answer["status"],
                    headers=recorded_answer["headers"],
                    stream=self._body(recorded_answer),
                    request=request,
                )
        raise InvalidRequest(f"This HTTP request was not recorded ({name}); record it again.")

    def _body(self, recorded_answer: dict[str, Any]) -> httpx.AsyncByteStream:
        chunks = [(float(seconds), base64.b64decode(data)) for seconds, data in recorded_answer["chunks"]]
        if self._read_size is not None:
            chunks = _recut(chunks, self._read_size)
        return _Replayed(chunks, self._timing, self._injected, broken=recorded_answer["end"] == "broken")


class _Replayed(httpx.AsyncByteStream):
    def __init__(
        self, chunks: list[tuple[float, bytes]], timing: bool, injected: Injected | None, *, broken: bool
    ) -> None:
        self._chunks = chunks
        self._timing = timing
        self._injected = injected
        self._broken = broken

    async def __aiter__(self) -> AsyncIterator[bytes]:
        begun = anyio.current_time()
        left = None if self._injected is None else self._injected.after_bytes
        for seconds, data in self._chunks:
            if self._timing:
                await anyio.sleep_until(begun + seconds)
            if left is not None and len(data) >= left:
                yield data[:left]
                await self._go_wrong()
                return
            left = None if left is None else left - len(data)
            yield data
        if self._broken:
            raise httpx.ReadError("the recorded connection broke here")

    async def _go_wrong(self) -> None:
        kind = self._injected.kind if self._injected is not None else "end"
        if kind == "stall":
            await anyio.sleep_forever()
        if kind == "reset":
            raise httpx.ReadError("an injected reset")


def exchange_name(request: httpx.Request) -> str:
    """Return the name under which a request is recorded: method, path, and a digest of its body."""
    path = request.url.path.strip("/").replace("/", ".")
    return f"{request.method}-{path}-{hashlib.sha256(request.content).hexdigest()[:16]}"


def _recut(chunks: list[tuple[float, bytes]], size: int) -> list[tuple[float, bytes]]:
    data = b"".join(chunk for _, chunk in chunks)
    last = chunks[-1][0] if chunks else 0.0
    return [(last, data[place : place + size]) for place in range(0, len(data), max(1, size))]
