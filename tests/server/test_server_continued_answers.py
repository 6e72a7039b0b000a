"""Answers that the server goes on with behind the assistant message that stands last."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from llama4_http import HttpBackend
from llama4_local import LocalBackend
from llama4sdk import Capabilities, Llama4, OutputSpec, Request, Sampling
from llama4sdk.backend import Backend
from llama4sdk.messages import conversation
from llama4sdk.server import create_app, running
from llama4sdk.stream import Stream
from llama4sdk.testing import ScriptedBackend
from long_runs import often

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
GREEDY = Sampling(temperature=0, max_tokens=30)


@pytest.fixture
async def remote() -> AsyncGenerator[HttpBackend]:
    local = LocalBackend(context=2048)
    async with Llama4(local) as llama, running(create_app(llama), shutdown_seconds=5) as server:
        backend = HttpBackend(server.url + "/v1")
        await backend.start()
        yield backend
        await backend.aclose()


async def text_of(backend: Backend, request: Request) -> str:
    async with Stream(backend, request) as stream:
        return (await stream.result()).text


@pytest.mark.parametrize(
    "request_",
    [
        Request(conversation("Tell me about yourself."), sampling=GREEDY),
        Request(conversation("Count from 1 to 40."), sampling=replace(GREEDY, temperature=1.0, seed=3)),
        Request(conversation("Ada is 36."), output=OutputSpec(SCHEMA), sampling=GREEDY),
    ],
    ids=["greedy", "sampled", "typed"],
)
async def test_an_answer_goes_on_behind_any_of_its_beginnings(remote: HttpBackend, request_: Request) -> None:
    assert remote.capabilities.continues == "everything"
    async with remote.open(request_) as events:
        texts = [event.text async for event in events if hasattr(event, "text")]  # type: ignore[union-attr]
    for place in range(1, len(texts), often(8, 2)):
        begun = "".join(texts[:place])
        left = replace(request_, answer_so_far=begun, sampling=replace(request_.sampling, max_tokens=30 - place))
        assert begun + await text_of(remote, left) == "".join(texts)


class Forgetful(ScriptedBackend):
    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, continues="nothing")


USER = {"role": "user", "content": "Hi"}
CALLS = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("backend", "messages"),
    [
        (Forgetful, [USER, {"role": "assistant", "content": "So"}]),
        (ScriptedBackend, [USER]),
        (ScriptedBackend, [USER, {"role": "assistant", "content": ""}]),
        (ScriptedBackend, [USER, {"role": "assistant", "content": "So", "tool_calls": CALLS}]),
    ],
    ids=["forgetful", "no beginning", "empty", "calls"],
)
async def test_what_cannot_be_gone_on_with_is_refused(
    backend: type[ScriptedBackend], messages: list[dict[str, Any]]
) -> None:
    body = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    async with (
        Llama4(backend()) as llama,
        running(create_app(llama), shutdown_seconds=5) as server,
        httpx.AsyncClient() as client,
    ):
        answer = await client.post(server.url + "/v1/chat/completions", json=body)
    assert answer.status_code == 400
