"""A server in front of a client with guards: a block is an end in OpenAI's form, and verdicts are counted."""

from __future__ import annotations

import httpx
import pytest

from guards.guard_doubles import BrokenGuard, WordGuard
from llama4sdk import GuardBlocked, Llama4, ToolCall, ToolCallReady
from llama4sdk.guards import Guard
from llama4sdk.server import create_app, running
from llama4sdk.sync import Llama4 as SyncLlama4
from llama4sdk.testing import ScriptedBackend
from server_running import asking, chunks_of, error_of


async def ask(answer: str, guard: Guard, prompt: str, *, stream: bool) -> tuple[httpx.Response, str]:
    async with (
        Llama4(ScriptedBackend(answer), guards=[guard]) as llama,
        running(create_app(llama), shutdown_seconds=5) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        response = await client.post("/v1/chat/completions", json=asking(prompt, stream=stream))
        metrics = (await client.get("/metrics")).text
    return response, metrics


@pytest.mark.parametrize(("prompt", "answer", "stage"), [("a BOMB", "no", "input"), ("hi", "a BOMB", "output")])
async def test_a_block_is_a_content_filter(prompt: str, answer: str, stage: str) -> None:
    response, metrics = await ask(answer, WordGuard(), prompt, stream=False)
    choice = response.json()["choices"][0]
    assert (response.status_code, choice["finish_reason"], choice["message"]["content"]) == (200, "content_filter", "")
    assert f'llama4_guard_verdicts{{action="block",guard="word",stage="{stage}"}} 1.0' in metrics


async def test_a_blocked_stream_ends_with_a_content_filter() -> None:
    response, _ = await ask("Fine so far. And now a BOMB.", WordGuard(), "hi", stream=True)
    chunks = chunks_of(response.text)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert "BOMB" not in text
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"


async def test_an_answer_that_the_client_puts_last_does_not_hide_the_asking() -> None:
    begun = [{"role": "user", "content": "a BOMB"}, {"role": "assistant", "content": "Sure."}]
    for fields in ({}, {"continue_final_message": True, "add_generation_prompt": False}):
        async with (
            Llama4(ScriptedBackend("no"), guards=[WordGuard()]) as llama,
            running(create_app(llama), shutdown_seconds=5) as server,
            httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client,
        ):
            response = await client.post("/v1/chat/completions", json={"messages": begun, **fields})
        assert response.json()["choices"][0]["finish_reason"] == "content_filter"


async def test_a_call_about_which_a_guard_asks_leaves_no_server() -> None:
    call = ToolCallReady(0, ToolCall("go", {"to": "BOMB"}, "c1"))
    tool = {"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {}}}}
    guard = WordGuard(action="ask", stages=["tool_call"])
    async with (
        Llama4(ScriptedBackend([call]), guards=[guard]) as llama,
        running(create_app(llama), shutdown_seconds=5) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        for stream in (False, True):
            body = asking("hi", stream=stream, tools=[tool])
            answer = (await client.post("/v1/chat/completions", json=body)).text
            assert "content_filter" in answer
            assert "BOMB" not in answer
        reply = await llama.chat("hi", tools=[tool])  # the program that holds the client decides for itself
        assert [one.action for one in reply.guards if one.guard == "word"] == ["ask"]
    assert llama.guard_counts["word", "tool_call", "ask"] == 3


def test_the_client_without_async_counts_verdicts() -> None:
    with SyncLlama4(ScriptedBackend("a BOMB"), guards=[WordGuard()]) as llama:
        with pytest.raises(GuardBlocked):
            llama.chat("hi")
        assert llama.guard_counts["word", "output", "block"] == 1


async def test_a_harmless_answer_passes_the_server() -> None:
    response, _ = await ask("Fine so far.", WordGuard(), "hi", stream=False)
    assert response.json()["choices"][0]["message"]["content"] == "Fine so far."


async def test_a_guard_without_a_verdict_is_status_503() -> None:
    response, _ = await ask("Fine.", BrokenGuard("raises"), "hi", stream=False)
    assert response.status_code == 503
    assert error_of(response)["code"] == "guard_unavailable"
