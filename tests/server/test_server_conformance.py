"""The promises of every backend, kept by the remote backend against this project's own server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from llama4_http import HttpBackend
from llama4_local import LocalBackend
from llama4sdk import Llama4, Request, Sampling
from llama4sdk.backend import Backend
from llama4sdk.messages import conversation
from llama4sdk.server import create_app, running
from llama4sdk.testing.conformance import BackendConformance


class TestHttpBackendAgainstTheServer(BackendConformance):
    """The product talks to itself: `HttpBackend`, over sockets, to a server in front of nano."""

    url = ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Backend]:
        local = LocalBackend(context=2048)
        async with Llama4(local) as llama, running(create_app(llama), shutdown_seconds=5) as server:
            self.url = server.url + "/v1"
            async with super().running() as backend:
                yield backend

    def make(self) -> Backend:
        return HttpBackend(self.url or "http://127.0.0.1:9/v1")

    def held(self, backend: Backend) -> int:
        assert isinstance(backend, HttpBackend)
        return backend.connections_held

    async def test_the_profile_is_found_and_takes_everything(self) -> None:
        async with self.running() as backend:
            await self.reply(backend, self.request(self.prompt))
            assert backend.capabilities.context == 2048
            sampling = Sampling(top_k=5, min_p=0.1, repetition_penalty=1.1, min_tokens=1, stop_token_ids=[3])
            request = Request(conversation("Hello!"), sampling=sampling, priority=3, cache_salt="mine")
            assert (await self.reply(backend, request)).complete
