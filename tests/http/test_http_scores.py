"""Log-probabilities of a prompt's own tokens over HTTP: against our own server, and against vLLM's form."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import starlette.requests
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from llama4_http import HttpBackend, Profile, Retries
from llama4_http.profiles import PROFILES, ProfileName
from llama4_http.prompt_scores import read_scores
from llama4sdk import InvalidRequest, Overloaded, ProtocolError, ServerFault
from llama4sdk.events import TokenLogprob
from llama4sdk.server import running

LACKS: list[ProfileName] = [name for name, profile in PROFILES.items() if not profile.scores_prompts]


def entry(text: str, logprob: float | None, rank: int) -> dict[str, Any]:
    return {"logprob": logprob, "rank": rank, "decoded_token": text}


# As vLLM 0.11 answers `echo` without tokens to write: both forms, the token's own entry first, no entry for the first.
LISTED: list[dict[str, Any] | None] = [
    None,
    {"72": entry("H", -2.5, 3), "9": entry("A", -0.5, 1), "8": entry("B", -1.5, 2)},
    {"9": entry("A", -0.25, 1), "72": entry("H", -4.0, 2)},
]
TOKENS = {
    "tokens": ["<|begin_of_text|>", "H", "A"],
    "token_logprobs": [None, -2.5, -0.25],
    "top_logprobs": [None, {"H": -2.5, "A": -0.5, "B": -1.5}, {"A": -0.25, "H": -4.0}],
}
CHOICE = {"text": "HA", "logprobs": TOKENS, "prompt_logprobs": LISTED, "prompt_token_ids": [200000, 72, 9]}
FIRST = TokenLogprob("<|begin_of_text|>", math.nan, 200000)


@asynccontextmanager
async def vllm(
    choice: dict[str, Any], *, statuses: tuple[int, ...] = (), profile: Profile = PROFILES["vllm"]
) -> AsyncGenerator[tuple[HttpBackend, list[dict[str, Any]]]]:
    """Yield a backend whose server answers with statuses and then with a choice, and its bodies."""
    sent: list[dict[str, Any]] = []
    left = list(statuses)

    async def answer(request: starlette.requests.Request) -> JSONResponse:
        sent.append(await request.json())
        if left:
            return JSONResponse({"error": {"message": "busy"}}, left.pop(0), {"retry-after": "0"})
        return JSONResponse({"choices": [choice], "usage": {"prompt_tokens": 3}})

    routes = [Route("/v1/completions", answer, methods=["POST"])]
    async with running(Starlette(routes=routes)) as server:
        retries = Retries(times=1, first_wait=0.001)
        backend = HttpBackend(f"{server.url}/v1", model="scout", profile=profile, retries=retries)
        try:
            yield backend, sent
        finally:
            await backend.aclose()


async def test_vllm_lists_scores_by_token_id() -> None:
    async with vllm(CHOICE) as (backend, sent):
        scores = await backend.score_prompt("HA", top=2)
    a, b, h = TokenLogprob("A", -0.5, 9), TokenLogprob("B", -1.5, 8), TokenLogprob("H", -4.0, 72)
    last = TokenLogprob("A", -0.25, 9, (TokenLogprob("A", -0.25, 9), h))
    assert repr(scores) == repr((FIRST, TokenLogprob("H", -2.5, 72, (a, b)), last))
    body = sent[-1]
    assert (body["echo"], body["max_tokens"], body["logprobs"], body["prompt_logprobs"]) == (True, 0, 2, 2)
    assert (body["prompt"], body["stream"], body["return_token_ids"]) == ("HA", False, True)
    assert "stream_options" not in body


async def test_servers_that_only_echo_are_read_too() -> None:
    written = {name: [*values, values[-1]] for name, values in TOKENS.items()}  # one that was written
    profile = replace(PROFILES["openai-generic"], scores_prompts=True, completions="everything")
    async with vllm({"text": "HA!", "logprobs": written}, profile=profile) as (backend, _):
        by_text, by_ids = await backend.score_prompt("HA", top=1), await backend.score_prompt((200000, 72, 9))
    assert by_text[1] == TokenLogprob("H", -2.5, top=(TokenLogprob("A", -0.5),))
    assert [token.text for token in by_text] == TOKENS["tokens"]
    assert [token.token_id for token in by_ids] == [200000, 72, 9]
    assert math.isnan(by_ids[0].logprob)
    assert [token.top for token in by_ids] == [(), (), ()]


@pytest.mark.parametrize(
    "choice",
    [
        {"text": "HA", "logprobs": None},
        {"text": "HA"},
        {"text": "!", "logprobs": {"tokens": ["!"], "token_logprobs": [-0.1], "top_logprobs": [None]}},
        CHOICE | {"prompt_logprobs": LISTED[:2]},
        CHOICE | {"prompt_logprobs": [None, None, None]},
        CHOICE | {"prompt_logprobs": [None, {"72": 1}, {"9": {}}]},
        CHOICE | {"prompt_logprobs": "none"},
    ],
)
def test_an_answer_without_a_score_for_each_token_is_an_error(choice: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="log-probabilit"):
        read_scores(json.dumps({"choices": [choice]}).encode(), (200000, 72, 9), 0)


async def test_busy_servers_are_asked_again_and_refusals_are_errors() -> None:
    async with vllm(CHOICE, statuses=(503, 503, 503, 400)) as (backend, sent):
        with pytest.raises(Overloaded) as caught:
            await backend.score_prompt("HA")
        assert caught.value.request_id
        with pytest.raises(InvalidRequest) as refused:
            await backend.score_prompt("HA")
        assert refused.value.server_message == "busy"
        assert len(await backend.score_prompt("HA")) == 3
        with pytest.raises(InvalidRequest, match="top"):
            await backend.score_prompt("HA", top=21)
    assert len(sent) == 5
    with pytest.raises(ServerFault, match="closed"):
        await backend.score_prompt("HA")


async def test_servers_that_score_no_prompts_are_refused_in_words_before_anything_is_sent() -> None:
    for name in LACKS:
        backend = HttpBackend("http://127.0.0.1:1/v1", model="scout", profile=name)
        with pytest.raises(InvalidRequest, match=name):
            await backend.score_prompt("HA")
        await backend.aclose()
