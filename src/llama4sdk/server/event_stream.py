"""The response of a stream: begun with its first chunk, kept alive, and given up when its client does not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from llama4sdk.server.chunks import PING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Send

_PING_EVERY = 15.0  # seconds without a chunk
_LOOK_EVERY = 1.0  # seconds
_TURN = 32  # writes


class EventStream:
    """Writes server-sent events; may be used from several tasks, each write one or more whole events.

    Args:
        send: The application's `send`.
        headers: Further headers.
        write_seconds: Seconds that a chunk may wait for the client.
    """

    def __init__(self, send: Send, headers: Mapping[str, str], write_seconds: float) -> None:
        self._send = send
        self._headers = headers
        self._write_seconds = write_seconds
        self._writing = 0
        self._writes = 0
        self.begun = False
        """Whether a status was sent."""

    async def write(self, data: bytes) -> None:
        """Write events, and wait until the client takes them."""
        if not self.begun:
            self.begun = True
            headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
            headers |= {"x-accel-buffering": "no", **self._headers}
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        self._writing += 1
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            self._writing -= 1
        self._writes += 1
        if self._writes % _TURN == 0:
            await anyio.lowlevel.checkpoint()  # a backend whose events are all ready lets others, and a cancel, through

    async def end(self) -> None:
        """End the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def attend(self, give_up: Callable[[], None]) -> None:
        """Send a comment in long pauses, which proxies would take for the end.

        Args:
            give_up: Called when a chunk waited too long for the client.
        """
        seen, since = self._writes, anyio.current_time()
        while True:
            await anyio.sleep(_LOOK_EVERY)
            now = anyio.current_time()
            if self._writes != seen:
                seen, since = self._writes, now
            elif self._writing and now - since > self._write_seconds:
                give_up()
                return
            elif not self._writing and now - since > _PING_EVERY:
                await self.write(PING)


async def until_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
