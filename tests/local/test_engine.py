"""The engine without a thread: what comes out of random small networks, alone and in company."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama4_local import engine as engine_module
from llama4_local import pictures as pictures_module
from llama4_local.config import ModelConfig
from llama4_local.engine import Limits
from llama4_local.scoring import score_with
from llama4sdk.errors import ContextOverflow, InvalidRequest, Overloaded, ServerFault
from llama4sdk.events import Done, Progress, TextDelta
from llama4sdk.images import Tiles
from llama4sdk.request import Sampling
from local.small_backends import Reader, SmallEngine, chatting, check_at_rest, picture
from local.small_checkpoints import CHUNK, guard, maverick, prompt, scout
from long_runs import often

GREEDY = Sampling(temperature=0, max_tokens=12)
SEEDED = Sampling(temperature=1.0, top_p=0.9, seed=7, max_tokens=12)
MAKERS: dict[str, Callable[[], ModelConfig]] = {"scout": scout, "maverick": maverick, "guard": guard}


def endless(config: ModelConfig | None = None) -> ModelConfig:
    """A network that never stops by itself, so that answers have a known length."""
    return chatting(config, stop_ids=())


@pytest.fixture(scope="module", params=MAKERS)
def shaped(request: pytest.FixtureRequest) -> SmallEngine:
    return SmallEngine(endless(MAKERS[str(request.param)]()))


def greedy_by_scoring(small: SmallEngine, token_ids: list[int], count: int) -> list[int]:
    """What the network itself says is likeliest, one full computation per token."""
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


@settings(deadline=None, max_examples=often(12, 300), suppress_health_check=[HealthCheck.too_slow])
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
    limits = Limits(step_tokens=step_tokens, max_sequences=max_sequences, prefix_caching=caching)
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
    assert reader.order
    return list(reader.order.written)


def test_preempted_requests_say_the_same(shaped: SmallEngine) -> None:
    sampling = replace(SEEDED, max_tokens=24)
    prompts = [prompt(shaped.config, 9 + n, seed=n) for n in range(6)]
    alone = [shaped.answer(token_ids, sampling).text for token_ids in prompts]
    tight = SmallEngine(shaped.config, global_pages=18, local_pages=4, limits=Limits(step_tokens=16))
    assert written(tight, *[tight.submit(token_ids, sampling) for token_ids in prompts]) == alone
    check_at_rest(tight)


def test_cached_prefixes_change_nothing(shaped: SmallEngine) -> None:
    token_ids = prompt(shaped.config, 21, seed=77)
    bare = SmallEngine(shaped.config, limits=Limits(prefix_caching=False))
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
    progress = [letter for letter in reader.letters if isinstance(letter, Progress)]
    assert [(one.phase, one.done) for one in progress] == [
        ("queued", 0),
        ("prefill", 8),
        ("prefill", 16),
        ("prefill", 19),
    ]
    assert isinstance(reader.letters[-1], Done)
    assert reader.letters.index(progress[-1]) < next(
        place for place, letter in enumerate(reader.letters) if isinstance(letter, TextDelta)
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
    reports = [one for letter in reader.letters if isinstance(letter, TextDelta) for one in letter.logprobs]
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


def test_what_does_not_fit_the_cache_is_refused_before_the_device_is_touched() -> None:
    small = SmallEngine(endless(), global_pages=4)
    reader = small.submit(prompt(small.config, 17))
    assert isinstance(reader.error, ContextOverflow)
    check_at_rest(small)


def test_an_answer_ends_where_the_cache_ends() -> None:
    small = SmallEngine(endless(), global_pages=4)
    reader = small.answer(prompt(small.config, 10), replace(GREEDY, max_tokens=100))
    assert reader.done
    assert reader.done.finish_reason == "length"
    assert reader.usage.total_tokens == 16


def test_fault_55_a_full_queue_is_overloaded_and_the_others_go_on() -> None:
    small = SmallEngine(endless(), limits=Limits(step_tokens=16, max_sequences=1, max_waiting=2))
    readers = [small.submit(prompt(small.config, 5, seed=n)) for n in range(4)]
    small.run()
    assert [isinstance(reader.error, Overloaded) for reader in readers] == [False, False, True, True]
    assert all(reader.done for reader in readers[:2])


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_fault_54_a_cancel_frees_everything_before_the_next_step(steps: int) -> None:
    small = SmallEngine(endless(), limits=Limits(step_tokens=8))
    reader = small.submit(prompt(small.config, 20))
    for _ in range(steps):
        small.engine.step()
    assert reader.order
    small.engine.cancel(reader.order)
    small.engine.cancel(reader.order)
    check_at_rest(small)
    assert not reader.over


def test_fault_56_an_error_in_a_step_ends_its_requests_and_not_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallEngine(endless())
    expected = small.answer(prompt(small.config, 9)).text
    reader = small.submit(prompt(small.config, 9, seed=1))
    small.engine.step()

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "forward", out_of_memory)
        small.engine.step()
    assert isinstance(reader.error, ServerFault)
    assert isinstance(reader.error.__cause__, torch.OutOfMemoryError)
    assert small.answer(prompt(small.config, 9)).text == expected
    check_at_rest(small)


def test_fault_57_numbers_gone_wrong_end_one_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallEngine(endless())
    first, second = prompt(small.config, 5), prompt(small.config, 5, seed=1)
    expected = small.answer(first).text
    readers = [small.submit(first), small.submit(second)]
    small.engine.step()
    real = engine_module.logits

    def one_row_broken(*arguments: object) -> torch.Tensor:
        scores = real(*arguments)  # pyright: ignore[reportArgumentType]
        scores[1] = torch.nan
        return scores

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "logits", one_row_broken)
        small.engine.step()
    small.run()
    assert isinstance(readers[1].error, ServerFault)
    assert readers[0].text == expected
    again = small.answer(second)
    assert again.usage.cached_tokens == 0
    check_at_rest(small)


async def test_fault_60_a_slow_reader_waits_alone() -> None:
    small = SmallEngine(endless(), limits=Limits(step_tokens=16, max_sequences=1))
    sampling = replace(GREEDY, max_tokens=40)
    expected = small.answer(prompt(small.config, 5), sampling).text
    slow = small.submit(prompt(small.config, 5), sampling, room=8)
    quick = [small.submit(prompt(small.config, 5, seed=n), sampling) for n in range(3)]
    small.run()
    assert all(reader.done for reader in quick)
    assert not slow.over
    assert len(slow.letters) <= 8 + 2
    taken = 0
    while not slow.over:
        for _ in range(taken, len(slow.letters)):
            await slow.mailbox.take()
        taken = len(slow.letters)
        small.run()
    assert slow.text == expected
    check_at_rest(small)


async def test_a_cancel_while_waiting_for_a_slow_reader_frees_everything() -> None:
    small = SmallEngine(endless())
    slow = small.submit(prompt(small.config, 5), replace(GREEDY, max_tokens=40), room=8)
    small.run()
    assert not slow.over
    assert slow.order
    small.engine.cancel(slow.order)
    check_at_rest(small)


def pixels_of(*pictures: Tiles) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([picture.pixels for picture in pictures]))


def scored_with_pixels(small: SmallEngine, token_ids: list[int], pictures: tuple[Tiles, ...], count: int) -> str:
    tokens = list(token_ids)
    for _ in range(count):
        scores = score_with(small.model, tokens, pixels=pixels_of(*pictures))[-1]
        scores[small.config.image_token_id or 0] = -torch.inf
        tokens.append(int(scores.argmax()))
    return small.tokenizer.decode(tokens[len(token_ids) :])


def test_pictures_are_seen_in_any_pieces_and_company(shaped: SmallEngine) -> None:
    pictures = (picture(shaped.config, 2, seed=1), picture(shaped.config, 1, seed=2))
    token_ids = prompt(shaped.config, 12, tiles=2) + prompt(shaped.config, 9, tiles=1, seed=1)
    sampling = replace(GREEDY, max_tokens=4)
    expected = scored_with_pixels(shaped, token_ids, pictures, 4)
    for step_tokens in (3, 16):
        small = SmallEngine(shaped.config, limits=Limits(step_tokens=step_tokens, max_sequences=2))
        mate = small.submit(prompt(shaped.config, 15, seed=5), sampling)
        assert small.answer(token_ids, sampling, tiles=pictures).text == expected
        assert mate.done
        check_at_rest(small)


def test_another_picture_in_the_same_place_shares_nothing_after_it() -> None:
    small = SmallEngine(endless())
    token_ids = prompt(small.config, 24, tiles=1)
    cached: list[int] = []
    for seed in (1, 1, 2):
        reader = small.answer(token_ids, replace(GREEDY, max_tokens=2), tiles=(picture(small.config, 1, seed),))
        cached.append(reader.usage.cached_tokens)
    assert cached == [0, 24, 4]


def test_tiles_that_do_not_fit_the_prompt_are_refused() -> None:
    small = SmallEngine(endless())
    reader = small.answer(prompt(small.config, 8), tiles=(picture(small.config, 1),))
    assert isinstance(reader.error, InvalidRequest)
    check_at_rest(small)


def test_a_picture_that_cannot_be_encoded_ends_one_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallEngine(endless())

    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no")

    monkeypatch.setattr(pictures_module, "encode_tiles", broken)
    mate = small.submit(prompt(small.config, 6))
    reader = small.answer(prompt(small.config, 8, tiles=1), tiles=(picture(small.config, 1),))
    assert isinstance(reader.error, ServerFault)
    assert mate.done
    check_at_rest(small)


def test_forty_steps_of_hunger_do_not_starve_the_least_urgent() -> None:
    small = SmallEngine(endless(), limits=Limits(step_tokens=16, max_sequences=1, max_waiting=500))
    patient = small.submit(prompt(small.config, 5), replace(GREEDY, max_tokens=2), priority=-1)
    others = [small.submit([n + 1], replace(GREEDY, max_tokens=1)) for n in range(80)]
    while not patient.over:
        small.engine.step()
    assert sum(reader.over for reader in others) < 80
    small.run()


@settings(deadline=None, max_examples=25)
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
                order = readers[place][1].order
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
    return SmallEngine(endless(), global_pages=16, local_pages=5, limits=Limits(11, 3))
