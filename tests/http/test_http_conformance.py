"""The promises of every backend, kept by the remote one against a well-behaved server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from llama4_http import HttpBackend
from llama4sdk.backend import Backend
from llama4sdk.testing.conformance import BackendConformance
from llama4sdk.testing.faults import FaultServer


class TestHttpBackend(BackendConformance):
    """Over real sockets, with the misbehaving server at its best."""

    url = ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Backend]:
        async with FaultServer(pause=0.001) as server:
            self.url = server.url
            async with super().running() as backend:
                yield backend

    def make(self) -> Backend:
        return HttpBackend(self.url or "http://127.0.0.1:9/v1")

    def held(self, backend: Backend) -> int:
        assert isinstance(backend, HttpBackend)
        return backend.connections_held
