"""Drafted tokens: the same answers in fewer steps, whatever else runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4_local.cache.page_table import CacheShape, PageAllocators
from llama4_local.config.options import Options, most_sampled
from llama4_local.decoding.prompt_lookup import PromptLookup
from llama4_local.decoding.sampler import SampledToken
from llama4_local.engine.cuda_graphs import Rerun
from llama4_local.engine.drafting import Drafting, confirmed
from llama4_local.engine.engine import EngineLimits
from llama4sdk import InvalidRequest
from llama4sdk.events import TextDelta
from llama4sdk.request import Sampling
from local.small_backends import (
    Reader,
    SmallEngine,
    asking,
    chatting,
    check_at_rest,
    events_of,
    saved_chat,
    serving,
    text_of,
)
from local.small_checkpoints import guard, maverick, prompt, scout
from local.test_engine_stateful import EngineLife
from long_runs import LONG, often, only_long

FEW = {5: 60.0, 80: 60.0, 81: 60.0}  # so that answers of these three tokens resemble themselves
GREEDY = Sampling(temperature=0, max_tokens=16, logit_bias=FEW)
SEEDED = Sampling(temperature=1.0, top_p=0.9, seed=7, max_tokens=16, logit_bias=FEW)
LONG_ONLY = only_long("takes its time")
MAKERS = {"scout": scout, "maverick": maverick, "guard": guard}
PLAIN = EngineLimits(step_tokens=40)
DRAFTING = replace(PLAIN, speculate=True)


def engines(maker: str = "scout", stops: tuple[int, ...] = ()) -> tuple[SmallEngine, SmallEngine]:
    """An engine without and one with drafts, over the same weights."""
    config = chatting(MAKERS[maker](), stop_ids=stops)
    return SmallEngine(config, limits=PLAIN), SmallEngine(config, limits=DRAFTING)


def copying(small: SmallEngine, seed: int) -> list[int]:
    """A prompt that repeats itself."""
    return prompt(small.config, 7, seed=seed) * 3


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Tokens drafted and accepted, of every draft."""
    drafts: list[tuple[int, int]] = []
    observe = Drafting.observe

    def noting(self: Drafting, drafted: int, accepted: int, count: int) -> None:
        drafts.append((drafted, accepted))
        observe(self, drafted, accepted, count)

    monkeypatch.setattr(Drafting, "observe", noting)
    return drafts


def same_answers(
    plain: SmallEngine, drafting: SmallEngine, prompts: Sequence[list[int]], samplings: Sequence[Sampling]
) -> list[Reader]:
    expected = [plain.answer(ids, sampling) for ids, sampling in zip(prompts, samplings, strict=True)]
    readers = [drafting.submit(ids, sampling) for ids, sampling in zip(prompts, samplings, strict=True)]
    drafting.run()
    assert [ending(reader) for reader in readers] == [ending(reader) for reader in expected]
    check_at_rest(drafting)
    return readers


def ending(reader: Reader) -> tuple[str, str, int, int]:
    """An answer and what was counted of it."""
    assert reader.done
    return reader.text, reader.done.finish_reason, reader.usage.prompt_tokens, reader.usage.completion_tokens


@pytest.mark.parametrize("maker", MAKERS if LONG else ["scout"])
@pytest.mark.parametrize("count", [1, 4, 5] if LONG else [4])
def test_drafts_change_no_answer(maker: str, count: int, observed: list[tuple[int, int]]) -> None:
    plain, drafting = engines(maker)
    prompts = [copying(plain, seed) for seed in range(count)]
    same_answers(plain, drafting, prompts, [SEEDED, GREEDY, SEEDED, replace(SEEDED, seed=8), GREEDY][:count])
    if count <= 4:
        assert any(accepted for _, accepted in observed)
        assert any(accepted < drafted for drafted, accepted in observed)


def test_a_text_that_repeats_itself_takes_fewer_steps() -> None:
    _, drafting = engines("guard")
    reader = drafting.submit(copying(drafting, 1), replace(GREEDY, max_tokens=60, logit_bias={5: 100.0}))
    steps = 0
    while not reader.done:
        drafting.engine.step()
        steps += 1
    assert reader.usage.completion_tokens == 60
    assert steps < 18


@LONG_ONLY
@pytest.mark.parametrize(
    "sampling",
    [
        replace(GREEDY, max_tokens=1),
        replace(GREEDY, max_tokens=2),
        replace(SEEDED, max_tokens=9),
        replace(GREEDY, stop_token_ids=(80,), min_tokens=11),
        replace(SEEDED, repetition_penalty=1.2),
        replace(GREEDY, stop=("Q",)),
    ],
    ids=["one token", "two tokens", "few tokens", "least length", "penalty", "stop strings"],
)
def test_answers_end_where_they_do_without_drafts(sampling: Sampling) -> None:
    plain, drafting = engines()
    same_answers(plain, drafting, [copying(plain, seed) for seed in range(3)], [sampling] * 3)


def test_answers_of_one_step_end_each_by_its_own_rule() -> None:
    plain, drafting = engines("guard")
    samplings = [
        replace(GREEDY, max_tokens=2),
        replace(GREEDY, stop_token_ids=(80,), min_tokens=5),
        replace(SEEDED, repetition_penalty=1.2),
        replace(GREEDY, stop=("Q",)),
    ]
    same_answers(plain, drafting, [copying(plain, seed) for seed in range(4)], samplings)


def test_reports_are_those_without_drafts() -> None:
    plain, drafting = engines("guard")
    sampling = replace(GREEDY, logprobs=2)
    (reader,) = same_answers(plain, drafting, [copying(plain, 1)], [sampling])
    own, expected = reports(reader), reports(plain.answer(copying(plain, 1), sampling))
    assert len(own) == 3 * 16
    assert [token for token, _ in own] == [token for token, _ in expected]
    assert [score for _, score in own] == pytest.approx([score for _, score in expected], abs=1e-4)


def reports(reader: Reader) -> list[tuple[int | None, float]]:
    deltas = [event for event in reader.events if isinstance(event, TextDelta)]
    tokens = [token for delta in deltas for each in delta.logprobs for token in (each, *each.top)]
    return [(token.token_id, token.logprob) for token in tokens]


@LONG_ONLY
def test_rows_with_penalties_share_steps_with_drafting_ones(observed: list[tuple[int, int]]) -> None:
    plain, drafting = engines("guard")
    samplings = [GREEDY, replace(GREEDY, repetition_penalty=1.3), SEEDED]
    same_answers(plain, drafting, [copying(plain, seed) for seed in range(3)], samplings)
    assert any(accepted for _, accepted in observed)


def test_drafts_run_beside_steps_of_fixed_shape() -> None:
    plain, _ = engines()
    drafting = SmallEngine(plain.config, limits=EngineLimits(12, max_sequences=3, speculate=True))
    drafting.engine.warm_up(Rerun)
    prompts = [copying(plain, seed) for seed in range(3)]
    same_answers(plain, drafting, prompts, [GREEDY, SEEDED, replace(SEEDED, repetition_penalty=1.2)])


@LONG_ONLY
def test_a_session_goes_on_from_an_answer_with_drafts() -> None:
    plain, drafting = engines(stops=(81,))
    first, expected = (small.answer(copying(small, 2), GREEDY, in_session=True) for small in (drafting, plain))
    assert first.engine_request
    assert expected.engine_request
    assert first.engine_request.written == expected.engine_request.written
    tokens = [*first.engine_request.token_ids, *first.engine_request.written, 5, 6, 7]
    pinned = drafting.submit(tokens, GREEDY)
    drafting.run()
    assert pinned.text == plain.answer(tokens, GREEDY).text
    assert pinned.usage.cached_tokens >= len(first.engine_request.token_ids) // 4 * 4
    drafting.engine.session_store.unpin(first.engine_request)
    check_at_rest(drafting)


@LONG_ONLY
def test_too_few_pages_change_nothing() -> None:
    config = chatting(scout(), stop_ids=())
    plain = SmallEngine(config, limits=PLAIN)
    tight = SmallEngine(config, limits=DRAFTING, global_pages=26, local_pages=5)
    same_answers(plain, tight, [copying(plain, seed) for seed in range(4)], [GREEDY] * 4)


class DraftingLife(EngineLife):
    """Random lives of an engine with drafts."""

    limits = EngineLimits(11, max_sequences=3, max_waiting=6, speculate=True)


TestDraftingLife = DraftingLife.TestCase
TestDraftingLife.settings = settings(max_examples=often(1, 200), stateful_step_count=often(25, 200), deadline=None)


@LONG_ONLY
async def test_ranks_draft_alike(tmp_path: Path) -> None:
    folder = saved_chat(tmp_path, chatting(stop_ids=()))
    request = asking("hello world " * 9, replace(GREEDY, max_tokens=16))
    texts: list[str] = []
    for options in ({}, {"tensor_parallel": 2}, {"tensor_parallel": 2, "speculate": "prompt_lookup"}):
        async with serving(folder, **options) as backend:
            texts.append(text_of(await events_of(backend, request)))
    assert texts[0] == texts[1] == texts[2]


@settings(max_examples=often(40, 1000))
@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=40), most=st.integers(1, 7), cut=st.integers(0, 40))
def test_a_draft_follows_the_latest_of_the_longest_matches(tokens: list[int], most: int, cut: int) -> None:
    lookup = PromptLookup(never=3)
    if tokens[:cut]:
        lookup.draft(tokens[:cut], most)
    assert list(lookup.draft(tokens, most)) == naive_draft(tokens, most, never=3)


def naive_draft(tokens: list[int], most: int, never: int) -> list[int]:
    for length in (4, 3, 2):
        ends = [end for end in range(length, len(tokens)) if tokens[end - length : end] == tokens[-length:]]
        if ends:
            text = list(tokens)
            for place in range(most):
                text.append(text[ends[-1] + place])
            drafted = text[len(tokens) :]
            return drafted[: drafted.index(never)] if never in drafted else drafted
    return []


@settings(max_examples=often(30, 500))
@given(drafted=st.lists(st.integers(0, 2), max_size=7), data=st.data())
def test_only_what_sampling_confirms_is_kept(drafted: list[int], data: st.DataObject) -> None:
    sampled = data.draw(st.lists(st.integers(0, 2), min_size=len(drafted) + 1, max_size=len(drafted) + 1))
    kept = [token.token for token in confirmed(drafted, [SampledToken(token) for token in sampled])]
    assert kept[:-1] == drafted[: len(kept) - 1]
    assert kept == sampled[: len(kept)]
    assert len(kept) == len(sampled) or kept[-1] != drafted[len(kept) - 1]


def test_drafts_rest_where_they_are_not_confirmed_ever_longer() -> None:
    drafting, count, drafts = Drafting(), 10, list[int]()
    for _ in range(1000):
        if not drafting.rests(count):
            drafts.append(count)
            drafting.observe(3, 0, count)
        count += 1
    pauses = [later - earlier for earlier, later in pairwise(drafts)]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 256
    assert len(drafts) < 10


@pytest.mark.parametrize(("accepted", "goes_on"), [(0.4, False), (0.8, True)])
def test_drafts_go_on_where_steps_yield_enough_tokens(accepted: float, *, goes_on: bool) -> None:
    drafting = Drafting()
    for step in range(100):
        drafting.observe(1, int((step + 1) * accepted) - int(step * accepted), 10)
    rested = drafting.rests(10)
    assert rested != goes_on


@settings(max_examples=often(20, 500))
@given(data=st.data())
def test_tokens_that_are_taken_back_leave_no_page(data: st.DataObject) -> None:
    pages = PageAllocators(CacheShape(40, 4, 4, data.draw(st.sampled_from([8, 16, None]))))
    sequence, plain = pages.sequence(), PageAllocators(pages.shape).sequence()
    for _ in range(data.draw(st.integers(1, 12))):
        count = data.draw(st.integers(1, min(6, sequence.room_in_chunk() or 6)))
        back = data.draw(st.integers(0, count - 1))
        sequence.extend(count)
        sequence.retract(back)
        plain.extend(count - back)
        assert sequence.length == plain.length
        assert len(sequence.global_pages) == len(plain.global_pages)
        assert len(sequence.local_pages) == len(plain.local_pages)
    sequence.release()
    assert (pages.global_pool.free, pages.local_pool.free) == (40, 4)


def test_the_option_is_checked_and_its_rows_are_counted() -> None:
    with pytest.raises(InvalidRequest, match="speculate is one of prompt_lookup, or None"):
        Options(speculate="eagle")  # type: ignore[arg-type]
    assert most_sampled(Options(max_sequences=64, speculate="prompt_lookup")) == 64
    assert most_sampled(Options(max_sequences=2, speculate="prompt_lookup")) == 16
    assert most_sampled(Options(max_sequences=2)) == 2


@LONG_ONLY
async def test_a_backend_drafts(tmp_path: Path, observed: list[tuple[int, int]]) -> None:
    folder = saved_chat(tmp_path, chatting(stop_ids=()))
    request = asking("hello hello hello hello", GREEDY)
    async with serving(folder) as backend:
        expected = text_of(await events_of(backend, request))
    async with serving(folder, speculate="prompt_lookup") as backend:
        assert text_of(await events_of(backend, request)) == expected
    assert observed
