"""Prompts without a template over HTTP: `llama.complete` and `/v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from http_asking import ask
from llama4_http import HttpBackend
from llama4_http.profiles import PROFILES, ProfileName
from llama4_http.settings import PromptMode
from llama4_local.nano import CHECKPOINT
from llama4sdk import InvalidRequest, Llama4, Request, Sampling, ServerFault, TextDelta
from llama4sdk.backend import ScoresPrompts
from llama4sdk.prompting import Tokenizer
from llama4sdk.prompting.raw import raw_ids
from llama4sdk.server import create_app, running
from llama4sdk.testing.faults import FaultServer

BEGIN = "<|begin_of_text|>"
TAKES = [name for name, profile in PROFILES.items() if profile.completions != "none"]
LACKS = [name for name, profile in PROFILES.items() if profile.completions == "none"]


def raw(prompt: str | tuple[int, ...], **fields: Any) -> Request:
    return Request((), raw=prompt, **fields)


@asynccontextmanager
async def asked_as(profile: ProfileName, **options: Any) -> AsyncGenerator[tuple[Llama4, FaultServer]]:
    async with (
        FaultServer() as server,
        Llama4(HttpBackend(server.url, model="faults", profile=profile, **options)) as llama,
    ):
        yield llama, server


@pytest.mark.parametrize("name", TAKES)
async def test_text_is_sent_as_it_is_and_comes_in_pieces(name: ProfileName) -> None:
    async with asked_as(name) as (llama, server):
        assert llama.capabilities.raw_prompts
        outcome = await ask(llama.backend, raw("Once upon", sampling=Sampling(max_tokens=4)))
        path, body = server.received[-1].path, server.received[-1].json
    assert outcome.error is None
    assert outcome.reply.text.startswith("Héllo 👋, you")
    assert outcome.reply.finish_reason == "length"
    assert sum(isinstance(event, TextDelta) for event in outcome.events) == 4
    assert path == "/v1/completions"
    assert (body["prompt"], body["max_tokens"], body["stream"]) == ("Once upon", 4, True)
    assert "messages" not in body


@pytest.mark.parametrize("name", LACKS)
async def test_servers_without_completions_refuse_in_words_before_anything_is_sent(name: ProfileName) -> None:
    async with asked_as(name) as (llama, server):
        assert not llama.capabilities.raw_prompts
        with pytest.raises(InvalidRequest, match="completes no raw prompts"):
            await llama.complete("Once")
        outcome = await ask(llama.backend, raw("Once"))
        assert not [each for each in server.received if each.method == "POST"]
    assert isinstance(outcome.error, InvalidRequest)
    assert name in str(outcome.error)


async def test_token_ids_are_sent_as_ids_where_the_server_is_known_to_take_them() -> None:
    async with asked_as("vllm") as (llama, server):
        assert (await llama.complete([200000, 5, 6])).text
        assert server.received[-1].json["prompt"] == [200000, 5, 6]
    async with asked_as("openai-generic") as (llama, server):
        with pytest.raises(InvalidRequest, match="may take no token ids"):
            await llama.complete([5, 6])
        assert not [each for each in server.received if each.method == "POST"]


@pytest.mark.parametrize(("name", "sent"), [("vllm", {"max_tokens": None}), ("openai-generic", {}), ("llamacpp", {})])
async def test_without_a_limit_the_context_is_one_where_a_field_can_say_so(
    name: ProfileName, sent: dict[str, Any]
) -> None:
    async with asked_as(name) as (llama, server):
        await llama.complete("Once")
        body = server.received[-1].json
    assert {key: value for key, value in body.items() if key == "max_tokens"} == sent


async def test_the_begin_token_is_not_sent_to_servers_that_add_it() -> None:
    expected: dict[ProfileName, str] = {"vllm": "Once", "llamacpp": "Once", "openai-generic": f"{BEGIN}Once"}
    for name, sent in expected.items():
        async with asked_as(name) as (llama, server):
            await llama.complete(f"{BEGIN}Once")
            assert server.received[-1].json["prompt"] == sent
            await llama.complete(BEGIN)
            assert server.received[-1].json["prompt"] == BEGIN


@pytest.mark.parametrize("mode", ["server", "client"])
async def test_an_answer_goes_on_behind_its_beginning(mode: PromptMode) -> None:
    tokenizer = Tokenizer.from_file(CHECKPOINT)
    async with asked_as("vllm", tokenizer=tokenizer, prompt_mode=mode) as (llama, server):
        await ask(llama.backend, raw("Once upon", answer_so_far=" a time "))
        text = server.received[-1].json["prompt"]
        await ask(llama.backend, raw((1, 2), answer_so_far=" a"))
        ids = server.received[-1].json["prompt"]
    beginning = [*raw_ids(tokenizer, "Once upon"), *tokenizer.encode(" a time ")]
    assert text == ("Once upon a time " if mode == "server" else beginning)
    assert ids == [1, 2, *tokenizer.encode(" a")]


async def test_ids_with_an_answer_begun_need_a_tokenizer() -> None:
    async with asked_as("vllm") as (llama, _):
        outcome = await ask(llama.backend, raw((1, 2), answer_so_far=" a"))
    assert isinstance(outcome.error, InvalidRequest)
    assert "tokenizer" in str(outcome.error)


async def test_sampling_reaches_the_server_and_what_it_has_no_field_for_is_refused() -> None:
    async with asked_as("llamacpp") as (llama, server):
        await llama.complete("Once", sampling=Sampling(seed=3, temperature=0, stop=["."], logprobs=2, top_k=5))
        body = server.received[-1].json
        with pytest.raises(InvalidRequest, match="min_tokens"):
            await llama.complete("Once", sampling=Sampling(min_tokens=2, max_tokens=4))
    assert (body["seed"], body["temperature"], body["stop"]) == (3, 0, ["."])
    assert (body["logprobs"], body["top_k"]) == (2, 5)


async def test_several_answers_are_several_requests() -> None:
    async with asked_as("vllm") as (llama, server):
        reply = await llama.complete("Once", sampling=Sampling(n=3, seed=1))
        seeds = sorted(each.json["seed"] for each in server.received if each.method == "POST")
    assert len(reply.alternatives) == 2
    assert seeds == [1, 2, 3]


async def test_leaving_stops_the_server_and_errors_are_errors() -> None:
    async with FaultServer(pause=0.02) as server:
        async with Llama4(HttpBackend(server.url, model="faults", profile="vllm")) as llama:
            with anyio.move_on_after(0.3) as scope:
                await llama.complete("Count from 1 to 5000.")
            assert scope.cancelled_caught
            with anyio.fail_after(5):
                await server.at_rest()
        url = server.url_for("status_500")
        async with Llama4(HttpBackend(url, model="faults", profile="vllm")) as llama:
            with pytest.raises(ServerFault):
                await llama.complete("Once")


async def test_our_server_completes_and_scores_text_and_ids_as_the_local_backend_does() -> None:
    sampling = Sampling(temperature=0, max_tokens=12, logprobs=1)
    turn = "<|header_start|>user<|header_end|>\n\nWhat is 17 + 25?<|eot|><|header_start|>assistant<|header_end|>\n\n"
    async with Llama4("local") as local, running(create_app(local)) as server, Llama4(f"{server.url}/v1") as llama:
        ids = raw_ids(Tokenizer.from_file(CHECKPOINT), turn)
        for prompt in (turn, f"{BEGIN}{turn}", ids):
            ours, theirs = (
                await local.complete(prompt, sampling=sampling),
                await llama.complete(prompt, sampling=sampling),
            )
            assert ours.text == theirs.text == "17 + 25 = 42."
            assert ours.usage.prompt_tokens == theirs.usage.prompt_tokens == len(ids)
            assert [token.text for token in theirs.logprobs] == [token.text for token in ours.logprobs]
        # Without a limit it goes on to the model's own end, beyond the 16 tokens of OpenAI's default.
        whole = await llama.complete(
            turn.replace("What is 17 + 25?", "Count from 1 to 12."), sampling=Sampling(temperature=0)
        )
        assert whole.finish_reason == "stop"
        assert whole.usage.completion_tokens > 16
        with pytest.raises(InvalidRequest, match="context"):
            await llama.complete("17 + 25 " * 4000, sampling=Sampling(max_tokens=1))
        assert isinstance(local.backend, ScoresPrompts)
        assert isinstance(llama.backend, ScoresPrompts)
        for prompt, top in ((turn, 2), (tuple(ids), 3), (tuple(ids[:1]), 0), ("Grüße 👋", 0), (f"{BEGIN}{turn}", 1)):
            scores = await local.backend.score_prompt(prompt, top=top)
            assert repr(scores) == repr(await llama.backend.score_prompt(prompt, top=top))
