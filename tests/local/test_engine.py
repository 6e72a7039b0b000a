"""The engine without a thread: what comes out of random small networks, alone and in company."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama4_local.engine.engine import EngineLimits
from llama4_local.scoring import score_with
from llama4sdk.events import Done, Progress, TextDelta
from llama4sdk.request import Sampling
from local.small_backends import GREEDY, Reader, SmallEngine, check_at_rest, endless
from local.small_checkpoints import CHUNK, prompt
from long_runs import often

SEEDED = Sampling(temperature=1.0, top_p=0.9, seed=7, max_tokens=12)


def greedy_by_scoring(small: SmallEngine, token_ids: list[int], count: int) -> list[int]:
    """The argmax tokens of the network itself, one full computation per token."""
    tokens = list(token_ids)
    for _ in range(count):
        scores = score_with(small.model, tokens)[-1]
        scores[small.config.image_token_id or 0] = -torch.inf
        tokens.append(int(scores.argmax()))
    return tokens[len(token_ids) :]


def written(small: SmallEngine, *readers: Reader) -> list[str]:
    small.run()
    assert all(reader.done for reader in readers)
    return [reader.text for reader in readers]


def test_greedy_answers_are_what_the_network_says_across_chunk_edges(shaped: SmallEngine) -> None:
    token_ids = prompt(shaped.config, 3 * CHUNK + 3)
    expected = shaped.tokenizer.decode(greedy_by_scoring(shaped, token_ids, 12))
    assert shaped.answer(token_ids).text == expected


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_eight_streams_say_what_each_says_alone(shaped: SmallEngine, sampling: Sampling) -> None:
    prompts = [prompt(shaped.config, 3 + 5 * n, seed=n) for n in range(8)]
    alone = [shaped.answer(token_ids, sampling).text for token_ids in prompts]
    together = written(shaped, *[shaped.submit(token_ids, sampling) for token_ids in prompts])
    assert together == alone
    assert len(set(alone)) > 1


@settings(deadline=None, max_examples=often(6, 300), suppress_health_check=[HealthCheck.too_slow])
@given(
    step_tokens=st.integers(1, 40),
    max_sequences=st.integers(1, 5),
    caching=st.booleans(),
    prompts=st.lists(st.tuples(st.integers(1, 10 * CHUNK + 3), st.integers(0, 2)), min_size=1, max_size=5),
    steps_between=st.integers(0, 3),
)
def test_any_prefill_split_and_any_batch_mates_give_the_same_tokens(
    shaped: SmallEngine,
    *,
    step_tokens: int,
    max_sequences: int,
    caching: bool,
    prompts: list[tuple[int, int]],
    steps_between: int,
) -> None:
    sampling = replace(GREEDY, max_tokens=6)
    asked = [prompt(shaped.config, length, seed=seed) for length, seed in prompts]
    alone = [tokens_of(SmallEngine(shaped.config).answer(token_ids, sampling)) for token_ids in asked]
    limits = EngineLimits(step_tokens=step_tokens, max_sequences=max_sequences, prefix_caching=caching)
    small = SmallEngine(shaped.config, global_pages=120, limits=limits)
    readers: list[Reader] = []
    for token_ids in asked:
        readers.append(small.submit(token_ids, sampling))
        for _ in range(steps_between):
            small.engine.step()
    small.run()
    assert [tokens_of(reader) for reader in readers] == alone
    check_at_rest(small)


def tokens_of(reader: Reader) -> list[int]:
    assert reader.done
    assert reader.engine_request
    return list(reader.engine_request.written)


def test_preempted_requests_say_the_same(shaped: SmallEngine) -> None:
    sampling = replace(SEEDED, max_tokens=24)
    prompts = [prompt(shaped.config, 9 + n, seed=n) for n in range(6)]
    alone = [shaped.answer(token_ids, sampling).text for token_ids in prompts]
    tight = SmallEngine(shaped.config, global_pages=18, local_pages=4, limits=EngineLimits(step_tokens=16))
    assert written(tight, *[tight.submit(token_ids, sampling) for token_ids in prompts]) == alone
    check_at_rest(tight)


def test_cached_prefixes_change_nothing(shaped: SmallEngine) -> None:
    token_ids = prompt(shaped.config, 21, seed=77)
    bare = SmallEngine(shaped.config, limits=EngineLimits(prefix_caching=False))
    first, again = shaped.answer(token_ids), shaped.answer(token_ids)
    assert first.text == again.text == bare.answer(token_ids).text
    assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, 20)


def test_a_dialog_that_grows_reuses_what_was_written() -> None:
    small = SmallEngine(endless())
    token_ids = prompt(small.config, 10)
    answer = greedy_by_scoring(small, token_ids, 8)
    small.answer(token_ids, replace(GREEDY, max_tokens=8))
    reader = small.answer([*token_ids, *answer, 5, 6, 7])
    assert reader.usage.cached_tokens == 16


def test_another_salt_shares_nothing_in_the_cache() -> None:
    small = SmallEngine(endless())
    token_ids = prompt(small.config, 21)
    small.answer(token_ids, salt="one")
    reader = small.answer(token_ids, salt="two")
    assert reader.usage.cached_tokens == 0


def test_events_come_in_order_and_prefill_counts_up() -> None:
    small = SmallEngine(endless())
    reader = small.answer(prompt(small.config, 19), replace(GREEDY, max_tokens=2))
    progress = [letter for letter in reader.events if isinstance(letter, Progress)]
    assert [(one.phase, one.done) for one in progress] == [
        ("queued", 0),
        ("prefill", 8),
        ("prefill", 16),
        ("prefill", 19),
    ]
    assert isinstance(reader.events[-1], Done)
    assert reader.events.index(progress[-1]) < next(
        place for place, letter in enumerate(reader.events) if isinstance(letter, TextDelta)
    )


def test_usage_counts_every_token() -> None:
    small = SmallEngine(endless())
    reader = small.answer(prompt(small.config, 11), replace(GREEDY, max_tokens=5))
    assert reader.done
    assert reader.done.finish_reason == "length"
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (11, 5)


def test_stop_tokens_of_the_request_end_the_answer() -> None:
    small = SmallEngine(endless())
    token_ids = prompt(small.config, 11)
    expected = greedy_by_scoring(small, token_ids, 4)
    stop = expected[3]
    reader = small.answer(token_ids, replace(GREEDY, stop_token_ids=[stop]))
    assert reader.done
    assert reader.done.finish_reason == "stop"
    assert reader.text == small.tokenizer.decode(expected[: expected.index(stop)])


def test_special_tokens_come_out_by_their_names() -> None:
    small = SmallEngine(endless())
    python_start = small.tokenizer.special("<|python_start|>")
    small.model.weights.head.zero_()
    small.model.weights.head[python_start] = small.model.weights.head[python_start] + 1
    reader = small.answer([5, 6, 7], Sampling(temperature=0, max_tokens=2, stop_token_ids=[0]))
    assert reader.text in ("<|python_start|>" * 2, "")


def test_log_probabilities_are_those_of_the_network() -> None:
    small = SmallEngine(endless())
    token_ids = prompt(small.config, 11)
    reader = small.answer(token_ids, Sampling(temperature=0.5, seed=3, max_tokens=4, logprobs=3))
    reports = [one for letter in reader.events if isinstance(letter, TextDelta) for one in letter.logprobs]
    tokens = list(token_ids)
    for one in reports:
        scores = score_with(small.model, tokens)[-1]
        scores[small.config.image_token_id or 0] = -torch.inf
        scores = scores.log_softmax(-1)
        assert one.token_id is not None
        assert one.logprob == pytest.approx(float(scores[one.token_id]), abs=1e-4)
        assert [top.token_id for top in one.top] == scores.topk(3).indices.tolist()
        tokens.append(one.token_id)
    assert reports


def test_forty_steps_of_hunger_do_not_starve_the_least_urgent() -> None:
    small = SmallEngine(endless(), limits=EngineLimits(step_tokens=16, max_sequences=1, max_waiting=500))
    patient = small.submit(prompt(small.config, 5), replace(GREEDY, max_tokens=2), priority=-1)
    others = [small.submit([n + 1], replace(GREEDY, max_tokens=1)) for n in range(80)]
    while not patient.over:
        small.engine.step()
    assert sum(reader.over for reader in others) < 80
    small.run()


@settings(deadline=None, max_examples=often(10, 25))
@given(seed=st.integers(0, 2**32))
def test_random_traffic_comes_to_rest_and_every_answer_is_its_own(seed: int) -> None:
    small = traffic_engine()
    chance = random.Random(seed)
    readers: list[tuple[int, Reader]] = []
    cancelled: set[int] = set()
    for _ in range(40):
        match chance.randrange(5):
            case 0 | 1:
                kind = chance.randrange(6)
                readers.append((kind, small.submit(_prompt(kind), _sampling(kind), priority=chance.randrange(-2, 3))))
            case 2 if readers:
                place = chance.randrange(len(readers))
                order = readers[place][1].engine_request
                assert order
                small.engine.cancel(order)
                cancelled.add(place)
            case _:
                small.engine.step()
    small.run()
    for place, (kind, reader) in enumerate(readers):
        assert reader.done or place in cancelled
        if reader.done:
            assert reader.text == said_alone()[kind]
    check_at_rest(small)


def _prompt(kind: int) -> list[int]:
    return prompt(endless(), 4 + 5 * kind, seed=kind // 2)


def _sampling(kind: int) -> Sampling:
    return replace(GREEDY if kind % 2 else SEEDED, max_tokens=3 + kind)


@cache
def said_alone() -> list[str]:
    """What each kind of request says when it has an engine for itself."""
    roomy = SmallEngine(endless())
    return [roomy.answer(_prompt(kind), _sampling(kind)).text for kind in range(6)]


@cache
def traffic_engine() -> SmallEngine:
    """An engine so tight that traffic preempts."""
    return SmallEngine(endless(), global_pages=16, local_pages=5, limits=EngineLimits(11, 3))
