"""One replica: an actor with a whole backend, which it serves over HTTP to those that have its key."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4sdk import Llama4

_SHUTDOWN = 5.0  # seconds in which running requests may end
_LOOK = 1.0  # seconds from one look at the backend to the next
_UNREAD = 86_400.0  # seconds that a caller may leave an answer unread, as with a backend of its own
_LARGEST = 1 << 30  # bytes of a request


class Replica:
    """Runs in a process of its own, on the node and with the GPUs that Ray has placed it on.

    Args:
        spec: The backend, as `Llama4` takes it.
        options: Its options.
        key: The key that requests must carry.
        host: The address to listen on; None for the node's own.
    """

    def __init__(self, spec: str, options: Mapping[str, object], key: str, host: str | None) -> None:
        self._spec = spec
        self._options: dict[str, Any] = dict(options)
        self._key = key
        self._host = host
        self._ending = asyncio.Event()
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start the backend, load its model, and serve it; return its address.

        Raises:
            LlamaError: The backend can never serve.
        """
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return await asyncio.shield(self._ready)

    async def ended(self) -> None:
        """Wait for the end of the replica."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def answers(self) -> None:
        """Return at once, since the event loop runs."""

    async def stop(self) -> None:
        """End the server and the backend."""
        self._ending.set()
        await self.ended()

    async def _serve(self) -> None:
        from llama4sdk import Deadlines, Llama4
        from llama4sdk.server import create_app, running

        try:
            host = self._host or _own_address()
            async with Llama4(self._spec, guards=None, **self._options) as llama:  # the caller has its own guards
                await llama.ready()
                app = create_app(
                    llama,
                    api_keys=[self._key],
                    deadlines=Deadlines(None, None, None, None),  # the caller keeps its own
                    max_body=_LARGEST,
                    max_running=_LARGEST,
                    write_seconds=_UNREAD,
                )
                async with running(app, host=host, shutdown_seconds=_SHUTDOWN) as server:
                    self._ready.set_result(server.url)
                    await self._until_end(llama)
        except Exception as error:  # noqa: BLE001 - raised where the replica is started
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _until_end(self, llama: Llama4) -> None:
        """Wait until the replica is to end, or until its backend has failed for good, with its device or a rank."""
        while not self._ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _LOOK)
            await llama.ready()


def _own_address() -> str:
    import ray.util

    return str(ray.util.get_node_ip_address())
