"""Choosing tokens: filters against a plain computation, seeds, penalties, masks, reports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llama4_local.decoding.sampler import ResolvedSampling, SampledToken, SamplerState
from llama4_local.ops.filters import Filters
from llama4_local.ops.reference import sampling
from llama4sdk.request import Sampling
from local.sampled_rows import sample


def sampled(
    logits: Tensor, *rules: ResolvedSampling, prompt: Sequence[int] = (), written: Sequence[int] = ()
) -> list[SampledToken]:
    rows = [SamplerState(rule, list(prompt), list(written)) for rule in rules]
    return sample(logits.expand(len(rows), -1) if logits.dim() == 1 else logits, rows)


def drawable(logits: Tensor, rules: ResolvedSampling, draws: int = 400) -> Counter[int | None]:
    """What comes out over many steps of one seed."""
    rows = [SamplerState(rules, [], [0] * step) for step in range(draws)]
    return Counter(one.token for one in sample(logits.expand(draws, -1), rows))


def plainly_kept(logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """The tokens that the filters leave, computed one after the other without any tensor."""
    best = max(logits)
    weights = [math.exp((logit - best) / temperature) for logit in logits]
    order = sorted(range(len(weights)), key=lambda token: -weights[token])
    ranked = order[: top_k or len(order)]
    total = sum(weights[token] for token in ranked)
    kept: list[int] = []
    mass = 0.0
    for token in ranked:
        if mass >= top_p * total and top_p < 1:
            break
        kept.append(token)
        mass += weights[token]
    return {token for token in kept if weights[token] >= min_p}


@pytest.mark.parametrize(
    ("seed", "counters", "words"),
    [
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (-1, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(seed: int, counters: tuple[int, ...], words: tuple[int, ...]) -> None:
    found = sampling.philox(torch.tensor([seed]), torch.tensor([counters]))
    assert tuple(int(word) for word in found) == words


def test_uniform_numbers_are_spread_evenly() -> None:
    numbers = sampling.uniforms(torch.arange(2000), torch.arange(2000) % 7)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert torch.histc(numbers, 10, 0, 1).min() > 150


def test_temperature_zero_takes_the_likeliest() -> None:
    assert sampled(torch.tensor([1.0, 3.0, 2.0]), ResolvedSampling())[0].token == 1


def test_a_tiny_temperature_takes_the_likeliest_without_overflow() -> None:
    assert sampled(torch.tensor([1.0, 3.0, 2.0]), ResolvedSampling(temperature=1e-30, seed=3))[0].token == 1


def test_the_same_seed_and_place_give_the_same_token() -> None:
    logits = torch.randn(100)
    rules = ResolvedSampling(temperature=2.0, seed=11)
    assert sampled(logits, rules, rules)[0] == sampled(logits, rules)[0]


def test_another_seed_or_another_place_gives_other_tokens() -> None:
    logits = torch.zeros(1000)
    tokens = [sampled(logits, ResolvedSampling(temperature=1.0, seed=seed))[0].token for seed in range(20)]
    places = [sampled(logits, ResolvedSampling(temperature=1.0), written=[0] * n)[0].token for n in range(20)]
    assert len(set(tokens)) > 15
    assert len(set(places)) > 15


def test_draws_follow_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    counts = drawable(logits, ResolvedSampling(temperature=1.0, seed=5), draws=2000)
    assert [round(counts[token] / 2000, 1) for token in range(3)] == [0.5, 0.3, 0.2]


@settings(deadline=None, max_examples=200)
@given(
    logits=st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=12, unique=True),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.integers(0, 13),
    top_p=st.sampled_from([0.05, 0.31, 0.77, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.13, 0.6, 1.0]),
    places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_only_what_the_filters_leave_is_ever_drawn(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, places: list[float]
) -> None:
    kept = plainly_kept(logits, temperature, top_k, top_p, min_p)
    filters = Filters(
        torch.full((len(places),), temperature),
        torch.full((len(places),), top_k),
        torch.full((len(places),), top_p, dtype=torch.float64),
        torch.full((len(places),), min_p),
        ranked=True,
    )
    rows = torch.tensor(logits).expand(len(places), -1)
    drawn = sampling.draw(rows, filters, torch.tensor(places, dtype=torch.float64))
    assert set(drawn.tolist()) <= kept
    ends = sampling.draw(rows[:1].expand(2, -1), _two(filters), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == [min(kept), max(kept)]


def _two(filters: Filters) -> Filters:
    return Filters(
        *(tensor[:1].expand(2) for tensor in (filters.temperature, filters.top_k, filters.top_p, filters.min_p)),
        ranked=True,
    )


def test_a_nucleus_wider_than_the_first_look_is_found_whole() -> None:
    logits = torch.zeros(5000)
    logits[:100] = -1e-3  # not quite as likely, so outside of a nucleus of 90%
    tokens = drawable(logits, ResolvedSampling(temperature=1.0, top_p=0.9, seed=1), draws=300)
    assert min(token for token in tokens if token is not None) >= 100
    assert max(token for token in tokens if token is not None) > 4000


def test_equally_likely_tokens_are_kept_together_whatever_the_order() -> None:
    tokens = drawable(torch.tensor([1.0, 1.0, 1.0, 0.0]), ResolvedSampling(temperature=1.0, top_k=2, seed=2), draws=100)
    assert set(tokens) == {0, 1, 2}


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_row_does_not_depend_on_its_mates(data: st.DataObject) -> None:
    rules = st.builds(
        ResolvedSampling,
        temperature=st.sampled_from([0.0, 0.7, 1.5]),
        top_p=st.sampled_from([0.4, 0.9, 1.0]),
        top_k=st.sampled_from([0, 3, 40]),
        min_p=st.sampled_from([0.0, 0.1]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        presence_penalty=st.sampled_from([0.0, 0.5]),
        seed=st.integers(0, 2**62),
        logprobs=st.sampled_from([None, 0, 3]),
    )
    chosen = data.draw(st.lists(rules, min_size=2, max_size=6))
    logits = torch.randn(len(chosen), 50, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999))))
    together = sampled(logits, *chosen, prompt=[1, 2], written=[3, 3])
    alone = [
        sampled(row[None], rule, prompt=[1, 2], written=[3, 3])[0] for row, rule in zip(logits, chosen, strict=True)
    ]
    assert [one.token for one in together] == [one.token for one in alone]
    assert [len(one.top) for one in together] == [rule.logprobs or 0 for rule in chosen]


def test_the_repetition_penalty_divides_what_is_above_zero_and_multiplies_what_is_below() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    seen = torch.tensor([[True, True, False]])
    none, two = torch.zeros(1), torch.tensor([2.0])
    found = sampling.penalize(logits, seen, torch.zeros(1, 3), two, none, none)
    assert found.tolist() == [[1.0, -4.0, 1.0]]


def test_presence_counts_once_and_frequency_every_time() -> None:
    counts = torch.tensor([[0, 1, 3]])
    found = sampling.penalize(
        torch.zeros(1, 3), counts > 0, counts, torch.ones(1), torch.tensor([0.5]), torch.tensor([0.25])
    )
    assert found.tolist() == [[0.0, -0.75, -1.25]]


def test_the_prompt_counts_for_repetition_only() -> None:
    logits = torch.tensor([1.0, 0.9, 0.0])
    assert sampled(logits, ResolvedSampling(presence_penalty=2.0), prompt=[0])[0].token == 0
    assert sampled(logits, ResolvedSampling(repetition_penalty=2.0), prompt=[0])[0].token == 1


def test_what_was_written_since_is_counted_step_by_step() -> None:
    sampler_state = SamplerState(ResolvedSampling(frequency_penalty=1.0), [], [])
    tokens: list[int | None] = []
    for _ in range(4):
        token = sample(torch.tensor([[1.0, 0.5]]), [sampler_state])[0].token
        sampler_state.written.append(token or 0)
        tokens.append(token)
    assert tokens == [0, 1, 0, 1]


def test_stop_tokens_wait_for_min_tokens() -> None:
    rules = ResolvedSampling(stop_ids=frozenset({2, 999}), min_tokens=2)
    logits = torch.tensor([0.0, 1.0, 5.0])
    assert [sampled(logits, rules, written=[0] * n)[0].token for n in range(3)] == [1, 1, 2]


class Allows:
    """A mask that lets some tokens through, after just these."""

    problem = None

    def __init__(self, tokens: set[int], *, after: list[int]) -> None:
        self._bits = sum(1 << token for token in tokens).to_bytes(2, "little")
        self._after = after

    def allowed(self, written: Sequence[int]) -> bytes:
        assert list(written) == self._after
        return self._bits


def test_a_mask_rules_tokens_out() -> None:
    masked = SamplerState(ResolvedSampling(), [], [4], mask=Allows({0, 2, 8}, after=[4]))
    logits = torch.tensor([[0.0, 9.0, 1.0, 8.0, 7.0, 7.0, 7.0, 7.0, 0.5, 9.0]])
    free = SamplerState(ResolvedSampling(), [], [])
    assert [each.token for each in sample(logits.repeat(2, 1), [masked, free])] == [2, 1]
    assert logits[0, 1] == 9
    masked.mask = Allows({8}, after=[4])
    assert sample(logits, [masked])[0].token == 8


def test_a_mask_that_rules_everything_out_leaves_no_token() -> None:
    rows = [
        SamplerState(ResolvedSampling(), [], [], mask=Allows(set(), after=[])),
        SamplerState(ResolvedSampling(), [], []),
    ]
    assert [each.token for each in sample(torch.zeros(2, 4), rows)] == [None, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_fault_57_a_row_that_is_not_numbers_leaves_the_others_alone(bad: float, temperature: float) -> None:
    logits = torch.randn(3, 20)
    expected = sampled(logits, *[ResolvedSampling(temperature=temperature, seed=4)] * 3)
    logits[1, 7] = bad
    found = sampled(logits, *[ResolvedSampling(temperature=temperature, seed=4)] * 3)
    assert found[1].token is None
    assert [found[0], found[2]] == [expected[0], expected[2]]


def test_log_probabilities_are_those_of_temperature_one_before_any_filter() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    found = sampled(logits, ResolvedSampling(temperature=0.1, top_k=1, repetition_penalty=9.0, logprobs=2), prompt=[0])[
        0
    ]
    assert found.token is not None
    assert found.logprob == pytest.approx(math.log([0.5, 0.3, 0.2][found.token]), abs=1e-6)
    assert [token for token, _ in found.top] == [0, 1]
    assert found.top[0][1] == pytest.approx(math.log(0.5), abs=1e-6)


def test_open_settings_take_the_checkpoints_defaults() -> None:
    rules = ResolvedSampling.of(Sampling(stop_token_ids=[9]), temperature=0.6, top_p=0.9, stop_ids=(1, 2), seed=5)
    assert (rules.temperature, rules.top_p, rules.seed, rules.stop_ids) == (0.6, 0.9, 5, {1, 2, 9})
    asked = ResolvedSampling.of(Sampling(temperature=0, seed=0), temperature=0.6, top_p=None, stop_ids=(), seed=5)
    assert (asked.temperature, asked.top_p, asked.seed) == (0, 1.0, 0)
