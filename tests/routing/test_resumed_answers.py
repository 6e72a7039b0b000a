"""Answers of nano, cut anywhere and resumed elsewhere: the same text, calls and values, nothing twice, nothing lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama4_http import HttpBackend
from llama4_local import LocalBackend
from llama4sdk import Llama4, Reply, Sampling, Switched
from llama4sdk.backend import Backend
from llama4sdk.routing import Fallback
from llama4sdk.server import create_app, running
from long_runs import LONG, often, thinned
from routing.failing import Cutting

GREEDY = Sampling(temperature=0, max_tokens=40)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def get_weather(city: str) -> str:
    """Return the weather in a city.

    Args:
        city: The city.
    """
    return city


ASKED: dict[str, dict[str, Any]] = {
    "text": {"prompt": "Tell me about yourself."},
    "called": {"prompt": "What is the weather in Paris?", "tools": [get_weather]},
    "typed": {"prompt": "Ada is 36.", "output": SCHEMA},
}
LONG_ASKED: dict[str, dict[str, Any]] = {
    "numbers": {"prompt": "Count from 1 to 40."},
    "stopped": {"prompt": "Count from 1 to 40.", "sampling": replace(GREEDY, stop=("7, 8",))},
    "probable": {"prompt": "Tell me about yourself.", "sampling": replace(GREEDY, logprobs=2)},
    "drawn": {"prompt": "Tell me a story.", "sampling": Sampling(temperature=1.0, seed=7, max_tokens=40)},
    "penalized": {"prompt": "Who are you?", "sampling": replace(GREEDY, repetition_penalty=1.3)},
    "number": {"prompt": "What is 1234 + 4321?", "output": {"type": "integer"}},
}
ASKED.update(LONG_ASKED if LONG else {})
ROUTES = ["local → local", "HTTP → local", "local → HTTP", "HTTP → HTTP"]


@dataclass(frozen=True)
class Places:
    local: LocalBackend
    http: HttpBackend
    address: str

    def pair(self, route: str) -> tuple[Backend, Backend]:
        first, second = (self.http if name == "HTTP" else self.local for name in route.split(" → "))
        return first, second


class Lent:
    """A backend that its wrapper does not close."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.capabilities = backend.capabilities
        self.open = backend.open

    async def start(self) -> None:
        """It runs already."""

    async def aclose(self) -> None:
        """It stays open."""


@asynccontextmanager
async def places() -> AsyncGenerator[Places]:
    local = LocalBackend(context=2048)
    async with Llama4(local) as llama, running(create_app(llama), shutdown_seconds=5) as server:
        http = HttpBackend(server.url + "/v1")
        await http.start()
        yield Places(local, http, server.url + "/v1")
        await http.aclose()


async def reply_of(backend: Backend, asked: str) -> tuple[Reply, list[Switched]]:
    async with Llama4(backend) as llama:
        options = {name: value for name, value in ASKED[asked].items() if name != "prompt"}
        sampling = options.pop("sampling", GREEDY)
        async with llama.stream(ASKED[asked]["prompt"], sampling=sampling, **options) as stream:
            events = [event async for event in stream]
        return stream.snapshot, [event for event in events if isinstance(event, Switched)]


def same(reply: Reply, whole: Reply) -> bool:
    calls = [[(call.name, call.arguments) for call in each.tool_calls] for each in (reply, whole)]
    return (
        (reply.text, reply.output, reply.finish_reason) == (whole.text, whole.output, whole.finish_reason)
        and calls[0] == calls[1]
        and reply.usage.completion_tokens == whole.usage.completion_tokens
    )


@pytest.mark.parametrize(("route", "asked"), thinned(product(ROUTES, ASKED), 5))
async def test_cut_at_any_event_the_reply_is_that_of_an_answer_without_a_cut(route: str, asked: str) -> None:
    async with places() as here:
        first, second = here.pair(route)
        whole, _ = await reply_of(Lent(first), asked)
        events = whole.usage.completion_tokens + 3
        for cut in range(0, events, often(3, 1) if route == "local → local" else 4):
            backends = Fallback(Cutting(Lent(first), cut), Lent(second))
            reply, switched = await reply_of(backends, asked)
            assert same(reply, whole), (cut, reply, whole)
            if cut < 3:
                assert switched


class CutBytes(httpx.AsyncBaseTransport):
    """Breaks the connection after so many bytes of the first answer, and hands bytes on one by one before."""

    def __init__(self, count: int) -> None:
        self._transport = httpx.AsyncHTTPTransport()
        self._count: int | None = count

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        if request.method != "POST" or self._count is None:
            return response
        count, self._count = self._count, None
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return httpx.Response(response.status_code, headers=response.headers, stream=_CutStream(response.stream, count))

    async def aclose(self) -> None:
        await self._transport.aclose()


class _CutStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, count: int) -> None:
        self._stream = stream
        self._count = count

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            for byte in chunk:
                if not self._count:
                    raise httpx.ReadError("The cable was cut.")
                self._count -= 1
                yield bytes([byte])

    async def aclose(self) -> None:
        await self._stream.aclose()


@settings(max_examples=often(4, 25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 9000), st.sampled_from(["text", "typed"]))
def test_cut_at_any_byte_of_the_wire_the_reply_is_that_of_an_answer_without_a_cut(count: int, asked: str) -> None:
    async def main() -> None:
        async with places() as here, httpx.AsyncClient(transport=CutBytes(count)) as client:
            whole, _ = await reply_of(Lent(here.local), asked)
            backends = Fallback(HttpBackend(here.address, client=client, max_connections=1), Lent(here.local))
            reply, _ = await reply_of(backends, asked)
            assert same(reply, whole), (count, reply, whole)

    anyio.run(main)


@settings(max_examples=often(3, 12), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 20), min_size=2, max_size=4), st.sampled_from(["text", "called", "typed"]))
def test_cut_again_and_again_it_is_still_one_answer(cuts: list[int], asked: str) -> None:
    async def main() -> None:
        local = LocalBackend(context=2048)
        await local.start()
        whole, _ = await reply_of(Lent(local), asked)
        reply, _ = await reply_of(Fallback(*(Cutting(Lent(local), cut) for cut in cuts), Lent(local)), asked)
        await local.aclose()
        assert same(reply, whole), (reply, whole)

    anyio.run(main)
