"""The promises of every backend, kept by each wrapper around the scripted, the local and the HTTP backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from llama4_http import HttpBackend
from llama4_local import LocalBackend
from llama4sdk.backend import Backend
from llama4sdk.routing import Balanced, Fallback, Hedged, Limited
from llama4sdk.testing import ScriptedBackend
from llama4sdk.testing.conformance import BackendConformance
from llama4sdk.testing.faults import FaultServer
from long_runs import thinned

Wrapper = Callable[..., Backend]
WRAPPERS: dict[str, Wrapper] = {
    "fallback": Fallback,
    "balanced": Balanced,
    "limited": lambda *backends: Limited(backends[0], 60_000, concurrency=8),
    "hedged": lambda *backends: Hedged(*backends, after=30.0),
    "hedged at once": lambda *backends: Hedged(*backends, after=0.0, budget=1.0),
}


class WrapperConformance(BackendConformance):
    wrapper: Wrapper

    @pytest.fixture(autouse=True)
    def choose(self, wrapper: str) -> None:
        self.wrapper = WRAPPERS[wrapper]

    def inner(self) -> Backend:
        raise NotImplementedError

    def make(self) -> Backend:
        return self.wrapper(self.inner(), self.inner())


@pytest.mark.parametrize("wrapper", WRAPPERS)
class TestAroundScripts(WrapperConformance):
    def inner(self) -> Backend:
        return ScriptedBackend(lambda request: f"You said: {request.messages[-1].text} " + "word " * 30, context=500)


@pytest.mark.parametrize("wrapper", thinned(WRAPPERS, 2))
class TestAroundNano(WrapperConformance):
    long_prompt = "Who are you and what can you do?"

    def inner(self) -> Backend:
        return LocalBackend(max_sequences=8)


@pytest.mark.parametrize("wrapper", WRAPPERS)
class TestAroundAServer(WrapperConformance):
    url = ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Backend]:
        async with FaultServer(pause=0.001) as server:
            self.url = server.url
            async with super().running() as backend:
                yield backend

    def inner(self) -> Backend:
        return HttpBackend(self.url or "http://127.0.0.1:9/v1")
