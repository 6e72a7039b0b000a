"""One replica: an actor with a whole backend, which it serves over HTTP to those that have its key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHUTDOWN = 5.0  # seconds in which running requests may end


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
        """Start the backend and its server; return its address.

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

    async def stop(self) -> None:
        """End the server and the backend."""
        self._ending.set()
        await self.ended()

    async def _serve(self) -> None:
        from llama4sdk import Llama4
        from llama4sdk.server import create_app, running

        try:
            host = self._host or _own_address()
            async with Llama4(self._spec, **self._options) as llama:
                app = create_app(llama, api_keys=[self._key])
                async with running(app, host=host, shutdown_seconds=_SHUTDOWN) as server:
                    self._ready.set_result(server.url)
                    await self._ending.wait()
        except Exception as error:  # noqa: BLE001 - raised where the replica is started
            if not self._ready.done():
                self._ready.set_exception(error)


def _own_address() -> str:
    import ray.util

    return str(ray.util.get_node_ip_address())
