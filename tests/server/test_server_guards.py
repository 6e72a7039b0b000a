"""Requests over the server pass through the guards of its client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx

from llama4_local import LocalBackend
from llama4sdk import Done, Event, Llama4, Started, Switched, TextDelta, Usage
from llama4sdk.backend import Backend, Capabilities
from llama4sdk.guards import PatternGuard
from llama4sdk.request import Request
from llama4sdk.server import create_app, running
from server_running import PATIENCE, asking, chunks_of, error_of, serving

CHAT = "/v1/chat/completions"


@asynccontextmanager
async def guarded(backend: Backend, rule: str) -> AsyncGenerator[httpx.AsyncClient]:
    async with (
        Llama4(backend, guards=[PatternGuard({"rule": rule})]) as llama,
        running(create_app(llama), shutdown_seconds=5) as server,
        httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False) as client,
    ):
        yield client


async def test_raw_prompts_are_guarded_and_token_ids_are_refused() -> None:
    async with guarded(LocalBackend(), "bomb") as client:
        blocked = await client.post("/v1/completions", json={"prompt": "a bomb", "max_tokens": 2})
        ids = await client.post("/v1/completions", json={"prompt": [5, 6], "max_tokens": 2})
        bare = await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "add_special_tokens": False})
        fine = await client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 2})
    choice = blocked.json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("", "content_filter")
    assert error_of(ids)["code"] == "guard_unavailable"
    assert error_of(bare)["param"] == "add_special_tokens"
    assert fine.status_code == 200


class ReadyBackend:
    """A backend whose events are all ready; `events` are its answer."""

    capabilities = Capabilities("ready", "ready")

    def __init__(self, *events: Event) -> None:
        self.events = events
        self.running = 0

    async def start(self) -> None:
        """Do nothing."""

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        """Run a request."""
        self.running += 1
        try:
            yield self._all(request)
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        """Do nothing."""

    async def _all(self, request: Request) -> AsyncGenerator[Event]:
        yield Started(request.request_id, "ready", "ready")
        for event in self.events:
            yield event


async def test_an_answer_that_is_withdrawn_after_a_part_was_sent_is_an_error() -> None:
    events = (
        TextDelta("Hel"),
        Switched("other", "it broke", withdrawn=True),
        TextDelta("Bye"),
        Done("stop", Usage(1, 1)),
    )
    async with serving(ReadyBackend(*events)) as client:
        chunks = chunks_of((await client.post(CHAT, json=asking(stream=True))).text)
        whole = (await client.post(CHAT, json=asking())).json()
    assert chunks[-1]["error"]["code"] == "backend_interrupted"
    assert whole["choices"][0]["message"]["content"] == "Bye"


async def test_events_without_an_end_are_never_a_whole_answer() -> None:
    async with serving(ReadyBackend(TextDelta("Hel"))) as client:
        chunks = chunks_of((await client.post(CHAT, json=asking(stream=True))).text)
        whole = await client.post(CHAT, json=asking())
    assert chunks[-1]["error"]["code"] == "backend_interrupted"
    assert whole.status_code == 502


async def test_a_backend_that_is_always_ready_lets_others_through_and_stops_when_its_client_leaves() -> None:
    backend = ReadyBackend(*[TextDelta("word ")] * 2_000_000)
    async with serving(backend) as client:
        async with client.stream("POST", CHAT, json=asking(stream=True)) as response:
            async for _ in response.aiter_raw():
                break
            assert (await client.get("/health")).status_code == 200
        with anyio.fail_after(PATIENCE):
            while backend.running:  # noqa: ASYNC110
                await anyio.sleep(0.01)
