"""Timing, several answers, biases and raw prompts."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from llama4sdk import InvalidRequest, Llama4, Overloaded, Progress, Sampling, Started, TextDelta
from llama4sdk.testing import ScriptedBackend
from llama4sdk.timing import Stopwatch


async def test_a_reply_has_the_seconds_of_its_phases() -> None:
    async with Llama4(ScriptedBackend([0.05, "one two three"], pause=0.01)) as llama:
        timing = (await llama.chat("a")).timing
    assert timing is not None
    assert timing.queued is not None
    assert timing.first_token is not None
    assert timing.tokens_per_second is not None
    assert 0 <= timing.queued <= timing.first_token <= timing.total
    assert timing.first_token >= 0.05
    assert timing.tokens_per_second <= 2 / 0.01


async def test_the_timing_of_a_running_stream_goes_on() -> None:
    async with Llama4(ScriptedBackend(["one", 60.0])) as llama, llama.stream("a") as stream:
        async for _ in stream.text():
            break
        earlier = stream.snapshot.timing
        await anyio.sleep(0.01)
        later = stream.snapshot.timing
        await stream.cancel()
        ended = stream.snapshot.timing
        await anyio.sleep(0.01)
    assert earlier is not None
    assert later is not None
    assert later.total > earlier.total
    assert ended == stream.snapshot.timing


def test_the_queue_ends_with_the_first_report_of_prefill() -> None:
    watch = Stopwatch()
    watch.note(Started("r", "b", "m"))
    started = watch.timing(0).queued
    watch.note(Progress("queued", 0, 3))
    assert watch.timing(0).queued == started
    watch.note(Progress("prefill", 10, 20))
    queued = watch.timing(0).queued
    assert started is not None
    assert queued is not None
    assert queued > started
    assert watch.first is None
    watch.note(TextDelta("a"))
    assert watch.first is not None
    assert watch.timing(1).tokens_per_second is None


async def test_several_answers_are_as_many_requests_with_their_own_seeds() -> None:
    backend = ScriptedBackend("one", "two", "three")
    async with Llama4(backend) as llama:
        reply = await llama.chat("a b", sampling=Sampling(n=3, seed=2**63 - 2))
    assert len(reply.alternatives) == 2
    assert reply.usage.prompt_tokens == 6
    seeds = {request.sampling.seed for request in backend.requests}
    assert seeds == {2**63 - 2, 2**63 - 1, -(2**63)}
    assert {request.sampling.n for request in backend.requests} == {1}


async def test_one_failure_ends_the_other_answers() -> None:
    backend = ScriptedBackend([60.0], [Overloaded("busy")])
    async with Llama4(backend) as llama:
        with pytest.raises(Overloaded):
            await llama.chat("a", sampling=Sampling(n=2))
        assert backend.running == 0


async def test_a_stream_is_one_answer() -> None:
    async with Llama4(ScriptedBackend()) as llama:
        with pytest.raises(InvalidRequest, match="one answer"):
            llama.stream("a", sampling=Sampling(n=2))


@pytest.mark.parametrize("bias", [{"12": 1.5}, {12: 1.5}, [(12, 1.5)], ((12, 1.5),)])
def test_biases_are_pairs_whatever_they_were(bias: object) -> None:
    sampling = Sampling(logit_bias=bias)  # type: ignore[arg-type]
    assert sampling.biases == ((12, 1.5),)
    assert hash(sampling) == hash(Sampling(logit_bias={12: 1.5}))


@pytest.mark.parametrize(
    "bias",
    [{12: 101}, {12: float("nan")}, {12: None}, {-1: 1}, {"x": 1}, {1.5: 1}, {True: 1}, 3, None, "12", {12: "1"}],
)
def test_a_bias_that_makes_no_sense_is_refused(bias: object) -> None:
    with pytest.raises(InvalidRequest, match="logit_bias"):
        Sampling(logit_bias=bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, 129, True, 1.0, None])
def test_a_number_of_answers_out_of_range_is_refused(n: object) -> None:
    with pytest.raises(InvalidRequest, match="n must be"):
        Sampling(n=n)  # type: ignore[arg-type]


async def test_nano_keeps_to_biases() -> None:
    async with Llama4("local") as llama:
        await llama.ready()
        (banned,) = llama.backend.prompt_template.tokenizer.encode("17")[:1]  # type: ignore[attr-defined]
        plain = await llama.chat("What is 17 + 25?")
        biased = await llama.chat("What is 17 + 25?", sampling=Sampling(logit_bias={banned: -100}))
        with pytest.raises(InvalidRequest, match="logit_bias has token ids outside"):
            await llama.chat("a", sampling=Sampling(logit_bias={10**6: 1}))
    assert plain.text.startswith("17")
    assert not biased.text.startswith("17")


async def test_nano_completes_text_and_token_ids() -> None:
    async with Llama4("local") as llama:
        rendered = llama.render("What is 17 + 25?")
        asked = (await llama.chat("What is 17 + 25?")).text
        assert (await llama.complete(rendered.text)).text == asked
        assert (await llama.complete(rendered.token_ids)).text == asked
        several = await llama.complete(rendered.token_ids, sampling=Sampling(n=2))
        assert [several.text, several.alternatives[0].text] == [asked, asked]
        wrongs: list[Any] = [[], 5, None, b"Hi", {7: 7}, [7, "a"]]
        for wrong in wrongs:
            with pytest.raises(InvalidRequest, match=r"raw prompt|token id"):
                await llama.complete(wrong)


async def test_a_backend_without_raw_prompts_refuses_them_in_words() -> None:
    async with Llama4(ScriptedBackend()) as llama:
        with pytest.raises(InvalidRequest, match="completes no raw prompts"):
            await llama.complete("Once upon a time")
