"""The loopback server that behaves as it is told."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from llama4sdk.errors import InvalidRequest
from llama4sdk.testing.faults import honest
from llama4sdk.testing.faults.misdeeds import MISDEEDS, Act
from llama4sdk.testing.faults.quirks import QUIRKS
from llama4sdk.testing.faults.wire import Received, Wire

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.IncompleteRead)
_PATH = re.compile(r"(?:/(?P<act>[a-z0-9_]+))?/v1(?P<rest>/.*)")


class FaultServer:
    """Speaks the OpenAI wire on 127.0.0.1, and misbehaves where the address asks for it.

        async with FaultServer() as server:
            HttpBackend(server.url)                         # well-behaved
            HttpBackend(server.url_for("reset_mid_stream"))

    Args:
        pause: Seconds before each token of a well-behaved answer.
        tls: A context to serve https with.
        port: The port; 0 for any free one.
    """

    def __init__(self, *, pause: float = 0.0, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._pause = pause
        self._tls = tls
        self._port = port
        self._stack = AsyncExitStack()
        self._put_off: list[Received] = []  # requests whose answer is asked for later
        self._asked_again = False
        self.received: list[Received] = []
        """Every request so far, in order."""
        self.connections = 0
        """Connections open now."""
        self.answering = 0
        """Answers under way now."""

    @property
    def url(self) -> str:
        """The address of the well-behaved server, for `base_url`."""
        return f"{self._origin}/v1"

    def url_for(self, name: str) -> str:
        """Return the address under which the server shows one fault or quirk, by name.

        Raises:
            InvalidRequest: For a name that does not exist.
        """
        if name not in MISDEEDS and name not in QUIRKS and name != "accepted":
            raise InvalidRequest(f"No fault named {name!r}; there are {', '.join(sorted({*MISDEEDS, *QUIRKS}))}.")
        return f"{self._origin}/{name}/v1"

    @property
    def posts(self) -> int:
        """How many POST requests came so far."""
        return sum(request.method == "POST" for request in self.received)

    async def at_rest(self) -> None:
        """Wait until no connection is open and no answer under way."""
        while self.connections or self.answering:
            await anyio.sleep(0.01)

    async def __aenter__(self) -> Self:
        plain = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self._port)
        self._port = plain.listeners[0].extra(SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        listener: Any = plain if self._tls is None else TLSListener(plain, self._tls, standard_compatible=False)
        await self._stack.enter_async_context(listener)
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(listener.serve, self._serve, tasks)
        self._stack.callback(tasks.cancel_scope.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def _origin(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    async def _serve(self, stream: ByteStream) -> None:
        self.connections += 1
        wire = Wire(stream)
        try:
            with suppress(
                anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.IncompleteRead
            ):
                async with stream:
                    while wire.open:
                        await self._handle(wire, await wire.receive())
        finally:
            self.connections -= 1

    async def _handle(self, wire: Wire, request: Received) -> None:
        self.received.append(request)
        match = _PATH.fullmatch(request.path)
        act = self._act(match["act"]) if match else None
        if match is None:
            await self._aside(wire, request)
        elif request.method != "POST":
            await self._tell(wire, match["rest"])
        else:
            self.answering += 1
            try:
                await (act or self._behave)(wire, request)
            finally:
                self.answering -= 1

    def _act(self, name: str | None) -> Act | None:
        if name == "accepted":
            return self._accept
        return MISDEEDS.get(name or "") or QUIRKS.get(name or "")

    async def _aside(self, wire: Wire, request: Received) -> None:
        """The routes of NVIDIA's catalog beside `/v1`: uploads, and answers that take long."""
        if request.path == "/assets":
            await wire.answer_json(200, {"assetId": "asset-1", "uploadUrl": f"{self._origin}/upload"})
        elif request.path == "/upload":
            await wire.answer(200, b"")
        elif request.path == "/status/request-1":
            self._asked_again = not self._asked_again
            if self._asked_again:
                await wire.answer(202, b"", NVCF_REQID="request-1")
            else:
                await self._behave(wire, self._put_off[-1])
        else:
            await wire.answer_json(404, {"error": {"message": "no such path", "type": "not_found"}})

    async def _accept(self, wire: Wire, request: Received) -> None:
        self._put_off.append(request)
        await wire.answer(202, b"", NVCF_REQID="request-1")

    async def _tell(self, wire: Wire, path: str) -> None:
        if path == "/models":
            await wire.answer_json(200, honest.models())
        else:
            await wire.answer_json(404, {"error": {"message": "no such path", "type": "not_found"}})

    async def _behave(self, wire: Wire, request: Received) -> None:
        given = honest.answer(request.json)
        if given.prompt_tokens > honest.CONTEXT:
            await wire.answer_json(400, honest.overflow(given.prompt_tokens))
            return
        if not request.json.get("stream"):
            await wire.answer_json(200, honest.whole(given))
            return
        await wire.head()
        plain = request.path.endswith("/v1/completions")
        for part in honest.completion_events(given) if plain else honest.events(given):
            await anyio.sleep(self._pause)
            await wire.chunk(part)
        await wire.end()
