from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from llama4_local.ops.filters import Filters
from llama4_local.ops.kernels.launch import recording
from llama4_local.ops.kernels.sampling import draw
from llama4_local.ops.kernels.softmax_weights import RowLogits
from llama4_local.ops.kernels.thresholds import thresholds
from llama4_local.ops.reference import sampling
from long_runs import thinned

BLOCK = 128  # 256 weights that begin alike are bisected without a second digit, 64 at a time
VOCAB = 395  # four blocks, the last one ragged


def filters(*rows: tuple[float, int, float]) -> Filters:
    """Return temperature, top_k and top_p of each row."""
    temperatures, limits, shares = zip(*rows, strict=True)
    return Filters(
        torch.tensor(temperatures, dtype=torch.float32),
        torch.tensor(limits),
        torch.tensor(shares, dtype=torch.float64),
        torch.zeros(len(rows)),
        True,
    )


def tops(logits: Tensor) -> Tensor:
    return torch.stack([part.amax(-1) for part in logits.split(BLOCK, -1)], -1).contiguous()


def searched(logits: Tensor, rules: Filters) -> list[tuple[float, float]]:
    """Return the least weights that pass top_k and top_p; 0 for a top_p of 1."""
    source = RowLogits(logits, tops(logits), rules.temperature)
    k, p = (bits.view(torch.float32).tolist() for bits in thresholds(source, rules, BLOCK, padded_blocks=8))
    return [(a, b if share < 1 else 0.0) for a, b, share in zip(k, p, rules.top_p.tolist(), strict=True)]


def ranked(logits: Tensor, rules: Filters) -> list[tuple[float, float]]:
    """Return the same from sorted weights, with the exponential function of the interpreter."""
    rows = zip(logits.numpy(), rules.temperature.numpy(), rules.top_k.tolist(), rules.top_p.tolist(), strict=True)
    return [_ranked(np.sort(np.exp((row - row.max()) / temperature))[::-1], *rest) for row, temperature, *rest in rows]


def _ranked(weights: np.ndarray, limit: int, share: float) -> tuple[float, float]:
    within = weights[:limit] if limit else weights
    mass = np.cumsum(within, dtype=np.float64)
    last = weights[limit - 1] if 0 < limit <= len(weights) else 0.0
    return float(last), float(within[np.argmax(mass >= share * mass[-1])]) if share < 1 else 0.0


RULES = [
    (1.0, 0, 0.9),
    (0.6, 0, 0.95),
    (1.0, 40, 1.0),
    (0.7, 200, 0.5),
    (3.0, 380, 0.999),
    (1.0, 1, 1.0),
    (1.0, VOCAB, 1.0),
    (1.0, 5, 1e-9),
    (2.0, 0, 1 - 1e-12),
    (1.0, 0, 1.0),
]


@pytest.mark.parametrize("spread", thinned([0.003, 15.0, 0.1, 1.0, 4.0], 3))
def test_thresholds_are_those_of_sorted_weights(spread: float) -> None:
    logits = torch.randn(len(RULES), VOCAB) * spread
    assert searched(logits, filters(*RULES)) == ranked(logits, filters(*RULES))


@pytest.mark.parametrize("vocab", thinned([1, 127, 128, 129, 641], 2))
def test_thresholds_hold_for_every_vocabulary_size(vocab: int) -> None:
    logits = torch.randn(4, vocab)
    rules = filters(*((temperature, min(k, vocab), p) for temperature, k, p in RULES[1:5]))
    assert searched(logits, rules) == ranked(logits, rules)


def test_thresholds_among_many_ties_are_exact() -> None:
    logits = torch.randint(-8, 3, (len(RULES), VOCAB)) / 2.0
    assert searched(logits, filters(*RULES)) == ranked(logits, filters(*RULES))


def test_equal_weights_all_pass() -> None:
    logits = torch.full((4, VOCAB), -3.0)
    rules = filters((1.0, 1, 1.0), (1.0, 300, 0.5), (1.0, 0, 0.25), (1.0, 0, 1 - 1e-15))
    assert searched(logits, rules) == [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 1.0)]


def test_one_token_with_all_the_weight_excludes_the_rest() -> None:
    logits = torch.zeros(3, VOCAB)
    logits[:, 300] = 200.0
    rules = filters((1.0, 0, 0.999999), (1.0, 1, 1.0), (1.0, 2, 0.5))
    # A logit 200 below weighs 0 in fp32, so that there is no second token with weight.
    assert searched(logits, rules) == [(0.0, 1.0), (1.0, 0.0), (0.0, 1.0)]


def test_ties_at_an_exact_threshold_pass_together() -> None:
    logits = torch.full((3, VOCAB), float("-inf"))
    logits[:, 124:132] = 1.5
    rules = filters((1.0, 3, 0.5), (1.0, 8, 0.125), (1.0, 9, 0.875))
    assert searched(logits, rules) == [(1.0, 1.0), (1.0, 1.0), (0.0, 1.0)]


def test_adjacent_fp32_weights_are_distinguished() -> None:
    logits = -torch.arange(VOCAB)[None] * 2.0**-23
    rules = filters((1.0, 200, 1.0))
    assert searched(logits, rules) == ranked(logits, rules)
    assert len(set(np.exp(logits[0].numpy()).tolist())) > 250


def test_a_top_k_beyond_the_unmasked_tokens_passes_all_of_them() -> None:
    logits = torch.full((2, VOCAB), float("-inf"))
    logits[:, [3, 200, 394]] = torch.tensor([1.0, 2.0, 0.0])
    rules = filters((1.0, 40, 1.0), (1.0, 40, 0.9))
    assert searched(logits, rules) == ranked(logits, rules)


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_a_top_p_of_0_leaves_the_argmax(spread: float) -> None:
    logits = torch.randn(2, VOCAB) * spread
    tokens, _ = draw(logits, filters((1.0, 0, 0.0), (0.5, 10, 0.0)), torch.tensor([0.1, 0.9]).double(), BLOCK)
    assert torch.equal(tokens, logits.argmax(-1))


def test_a_row_alone_draws_the_token_that_it_draws_among_others() -> None:
    rules = thinned([RULES[0], RULES[3], RULES[4], RULES[9]], 2)
    logits, chances = torch.randn(len(rules), VOCAB) * 0.5, torch.rand(len(rules), dtype=torch.float64)
    together = searched(logits, filters(*rules))
    drawn, _ = draw(logits, filters(*rules), chances, BLOCK)
    for n, rule in enumerate(rules):
        alone = logits[n : n + 1].clone()
        assert searched(alone, filters(rule)) == together[n : n + 1]
        assert torch.equal(draw(alone, filters(rule), chances[n : n + 1], BLOCK)[0], drawn[n : n + 1])


@pytest.mark.parametrize("spread", thinned([6.0, 0.1], 2))
def test_draws_with_every_combination_of_filters_match_their_twin(spread: float) -> None:
    logits, chances = torch.randn(len(RULES), VOCAB) * spread, torch.rand(len(RULES), dtype=torch.float64)
    tokens, _ = draw(logits, filters(*RULES), chances, BLOCK)
    assert torch.equal(tokens, sampling.draw(logits, filters(*RULES), chances))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_rows_of_nan_leave_their_neighbours_unchanged() -> None:
    logits = torch.randn(len(RULES), VOCAB)
    rules = filters(*RULES)
    expected = searched(logits, rules)
    logits[0, 7], logits[3, 9], logits[4] = float("nan"), float("inf"), float("-inf")
    kept = [n for n in range(len(RULES)) if n not in {0, 3, 4}]
    got = searched(logits, rules)
    assert [got[n] for n in kept] == [expected[n] for n in kept]


def test_drawing_takes_ten_launches() -> None:
    logits, rules = torch.randn(2, VOCAB), filters((1.0, 5, 0.9), (1.0, 0, 1.0))
    with recording() as launches:
        draw(logits, rules, torch.rand(2, dtype=torch.float64), BLOCK)
    names = ["peaks", "tally", "refine", "gather", "settle", "refine", "gather", "settle", "mass", "draw"]
    assert [launch.name for launch in launches] == names
