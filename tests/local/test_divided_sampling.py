"""Sampling from logits that lie divided among ranks: the tokens of the whole, and few bytes that travel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from llama4_local.decoding import sampler
from llama4_local.decoding.adjusting import adjust
from llama4_local.decoding.divided_sampling import Part, report_part, sample_part
from llama4_local.decoding.reports import Reports
from llama4_local.decoding.sampler import ResolvedSampling, SamplerState, sampling_columns
from llama4_local.ops.reference.functions import ReferenceOps
from local.rank_threads import exchanges, on_every_rank
from long_runs import often

if TYPE_CHECKING:
    from llama4_local.config.share import Share
    from llama4_local.parallel.exchange import Exchange

PUBLISHED = 202_048
CPU = torch.device("cpu")


class Bits:
    """A token mask of given bits."""

    problem = None

    def __init__(self, bits: bytes) -> None:
        self.bits = bits

    def allowed(self, written: Any) -> bytes:
        return self.bits


@pytest.fixture(scope="module", params=[2, 3, 4])
def ends(request: pytest.FixtureRequest) -> list[Exchange]:
    return exchanges(request.param)


def divided(ends: list[Exchange], logits: Tensor, states: list[SamplerState]) -> list[tuple[Tensor, Reports | None]]:
    """Sample on every rank's thread."""
    vocab, columns = logits.shape[-1], sampling_columns(states, CPU)
    rules = [state.rules(logits[0]) for state in states]

    def work(share: Share, end: Exchange) -> tuple[Tensor, Reports | None]:
        start, stop = share.vocabulary(vocab)
        part, own = Part(share, vocab, end.gather), logits[:, start:stop].clone()
        ours = [each.part(start, stop) for each in rules]
        changed = own.clone()
        adjust(ReferenceOps(), changed, ours)
        tokens = sample_part(changed, columns, part)
        return tokens, report_part(own, tokens, ours, part)

    return on_every_rank(ends, work)


def whole(logits: Tensor, states: list[SamplerState]) -> tuple[Tensor, Reports | None]:
    return sampler.sample(ReferenceOps(), logits.clone(), states, sampling_columns(states, CPU))


def some_state(chance: torch.Generator, vocab: int) -> SamplerState:
    """A row of any parameters."""

    def pick(*values: Any) -> Any:
        return values[int(torch.randint(len(values), (1,), generator=chance))]

    ids = torch.randint(vocab, (30,), generator=chance).tolist()
    mask = torch.randint(256, ((vocab + 7) // 8,), generator=chance, dtype=torch.uint8).numpy().tobytes()
    sampling = ResolvedSampling(
        temperature=pick(0.0, 1e-9, 0.3, 1.0, 2.5),
        top_p=pick(1.0, 1.0, 0.9, 0.5, 0.999999, 1e-9),
        top_k=pick(0, 0, 1, 7, 70, 1500, 10**6),
        min_p=pick(0.0, 0.0, 0.05, 1.0),
        repetition_penalty=pick(1.0, 1.3),
        presence_penalty=pick(0.0, 0.4),
        frequency_penalty=pick(0.0, -0.2),
        seed=pick(*ids),
        stop_ids=frozenset((ids[0], ids[1])),
        min_tokens=pick(0, 40),
        logprobs=pick(None, 0, 3, 20),
        biases=pick((), ((ids[2], 4.0), (vocab - 1, -3.0))),
    )
    written = ids[5 : pick(5, 9, 25)]
    return SamplerState(sampling, ids[3:10], written, Bits(pick(mask, mask[:20], b"")) if pick(0, 0, 1) else None)


@pytest.mark.parametrize("vocab", [331, 5000])
def test_any_row_gets_the_token_of_the_whole_logits(ends: list[Exchange], vocab: int) -> None:
    for seed in range(often(2, 300)):
        chance = torch.Generator().manual_seed(seed)
        states = [some_state(chance, vocab) for _ in range(12)]
        logits = torch.randn(len(states), vocab, generator=chance) * (1, 4, 0.01)[seed % 3]
        if seed % 4 == 0:
            logits = logits.round(decimals=1)  # many equal ones
        tokens, reports = whole(logits, states)
        for found, own in divided(ends, logits, states):
            assert torch.equal(found, tokens)
            check_reports(own, reports)


def check_reports(own: Reports | None, expected: Reports | None) -> None:
    found, wanted = (reports.by_row() if reports else {} for reports in (own, expected))
    assert found.keys() == wanted.keys()
    for row, (logprob, top) in wanted.items():
        assert found[row][0] == pytest.approx(logprob, abs=2e-5)
        assert [score for _, score in found[row][1]] == pytest.approx([score for _, score in top], abs=2e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("where", [0, 150, 330])
def test_rows_without_a_possible_token_get_none_and_harm_no_other(
    ends: list[Exchange], where: int, temperature: float
) -> None:
    logits = torch.randn(5, 331, generator=torch.Generator().manual_seed(1))
    logits[0, where], logits[1, where] = torch.nan, torch.inf
    logits[2] = -torch.inf
    logits[3, :where], logits[3, where + 1 :] = -torch.inf, -torch.inf
    sampling = ResolvedSampling(temperature=temperature, top_p=0.9, seed=5)
    states = [SamplerState(sampling, [1], []) for _ in logits]
    for found, _ in divided(ends, logits, states):
        assert found[:4].tolist() == [-1, -1, -1, where]
        assert torch.equal(found, whole(logits, states)[0])


def test_of_equal_logits_the_first_token_is_taken_whatever_its_rank(ends: list[Exchange]) -> None:
    logits = torch.zeros(2, 331)
    logits[1, [140, 220, 330]] = 1.0
    states = [SamplerState(ResolvedSampling(), [1], []) for _ in logits]
    for found, _ in divided(ends, logits, states):
        assert found.tolist() == [0, 140]


@pytest.mark.parametrize(
    ("sampling", "most"),
    [
        (ResolvedSampling(), 16),
        (ResolvedSampling(temperature=0.6, top_p=0.9), 16 + 4 * 66 + 16),
        (ResolvedSampling(temperature=1.0), 16 + 16),
        (ResolvedSampling(temperature=1.0, top_k=50, logprobs=5), 16 + 4 * 66 + 16 + 8 * 12),
    ],
)
def test_logits_of_the_published_vocabulary_stay_where_they_are(sampling: ResolvedSampling, most: int) -> None:
    """What a rank gets of each other one for a row; the part of the logits itself is 404,096 bytes."""
    ends = exchanges(2)
    before = [end.received for end in ends]
    logits = torch.randn(3, PUBLISHED, generator=torch.Generator().manual_seed(0)) * 5
    states = [SamplerState(sampling, [1], []) for _ in logits]
    tokens, _ = whole(logits, states)
    for found, _ in divided(ends, logits, states):
        assert torch.equal(found, tokens)
    assert [end.received - old for end, old in zip(ends, before, strict=True)] == [3 * most] * 2
    assert most < PUBLISHED // 2 * 4 / 1000
