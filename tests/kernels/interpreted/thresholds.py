from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from llama4_local.ops.filters import Filters
from llama4_local.ops.kernels.launch import recording
from llama4_local.ops.kernels.sampling import draw
from llama4_local.ops.kernels.thresholds import thresholds
from llama4_local.ops.reference import sampling

BLOCK = 128  # 256 weights that begin alike are settled without a second digit, 64 at a time
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


def found(logits: Tensor, rules: Filters) -> list[tuple[float, float]]:
    """Return the least weights that pass top_k and top_p; 0 for a top_p that is not looked for."""
    blocks = -(-logits.shape[-1] // BLOCK)
    source = {"logits": logits, "tops": tops(logits), "temperature": rules.temperature}
    sizes = {"vocab": logits.shape[-1], "blocks": blocks}
    least = thresholds(source, rules, sizes, {"BLOCK": BLOCK, "BLOCKS": 8})
    k, p = (least[name].view(torch.float32).tolist() for name in ("k_least", "p_least"))
    return [(a, b if share < 1 else 0.0) for a, b, share in zip(k, p, rules.top_p.tolist(), strict=True)]


def sought(logits: Tensor, rules: Filters) -> list[tuple[float, float]]:
    """Return the same from sorted weights, with the exponential that the interpreter takes."""
    rows = zip(logits.numpy(), rules.temperature.numpy(), rules.top_k.tolist(), rules.top_p.tolist(), strict=True)
    return [_sought(np.sort(np.exp((row - row.max()) / temperature))[::-1], *rest) for row, temperature, *rest in rows]


def _sought(ranked: np.ndarray, limit: int, share: float) -> tuple[float, float]:
    within = ranked[:limit] if limit else ranked
    mass = np.cumsum(within, dtype=np.float64)
    last = ranked[limit - 1] if 0 < limit <= len(ranked) else 0.0
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


@pytest.mark.parametrize("spread", [0.003, 0.1, 1.0, 4.0, 15.0])
def test_thresholds_are_those_of_sorted_weights(spread: float) -> None:
    logits = torch.randn(len(RULES), VOCAB) * spread
    assert found(logits, filters(*RULES)) == sought(logits, filters(*RULES))


@pytest.mark.parametrize("vocab", [1, 127, 128, 129, 641])
def test_no_size_of_the_vocabulary_is_special(vocab: int) -> None:
    logits = torch.randn(4, vocab)
    rules = filters(*((temperature, min(k, vocab), p) for temperature, k, p in RULES[1:5]))
    assert found(logits, rules) == sought(logits, rules)


def test_many_ties_in_coarse_logits_are_told_apart() -> None:
    logits = torch.randint(-8, 3, (len(RULES), VOCAB)) / 2.0
    assert found(logits, filters(*RULES)) == sought(logits, filters(*RULES))


def test_where_all_are_as_likely_all_pass() -> None:
    logits = torch.full((4, VOCAB), -3.0)
    rules = filters((1.0, 1, 1.0), (1.0, 300, 0.5), (1.0, 0, 0.25), (1.0, 0, 1 - 1e-15))
    assert found(logits, rules) == [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 1.0)]


def test_one_token_with_all_the_weight_leaves_nothing_to_the_rest() -> None:
    logits = torch.zeros(3, VOCAB)
    logits[:, 300] = 200.0
    rules = filters((1.0, 0, 0.999999), (1.0, 1, 1.0), (1.0, 2, 0.5))
    # What lies 200 below weighs nothing in fp32, so that a second token with weight is not to be found.
    assert found(logits, rules) == [(0.0, 1.0), (1.0, 0.0), (0.0, 1.0)]


def test_ties_at_an_exact_threshold_pass_together() -> None:
    logits = torch.full((3, VOCAB), float("-inf"))
    logits[:, 124:132] = 1.5
    rules = filters((1.0, 3, 0.5), (1.0, 8, 0.125), (1.0, 9, 0.875))
    assert found(logits, rules) == [(1.0, 1.0), (1.0, 1.0), (0.0, 1.0)]


def test_neighbours_in_fp32_are_told_apart() -> None:
    logits = -torch.arange(VOCAB)[None] * 2.0**-23
    rules = filters((1.0, 200, 1.0))
    assert found(logits, rules) == sought(logits, rules)
    assert len(set(np.exp(logits[0].numpy()).tolist())) > 250


def test_a_top_k_beyond_the_tokens_that_a_mask_allows_lets_all_of_them_pass() -> None:
    logits = torch.full((2, VOCAB), float("-inf"))
    logits[:, [3, 200, 394]] = torch.tensor([1.0, 2.0, 0.0])
    rules = filters((1.0, 40, 1.0), (1.0, 40, 0.9))
    assert found(logits, rules) == sought(logits, rules)


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_a_top_p_of_0_leaves_the_likeliest(spread: float) -> None:
    logits = torch.randn(2, VOCAB) * spread
    tokens, _ = draw(logits, filters((1.0, 0, 0.0), (0.5, 10, 0.0)), torch.tensor([0.1, 0.9]).double(), BLOCK)
    assert torch.equal(tokens, logits.argmax(-1))


def test_a_row_is_drawn_alike_alone_and_among_others() -> None:
    rules = [RULES[0], RULES[3], RULES[4], RULES[9]]
    logits, chances = torch.randn(len(rules), VOCAB) * 0.5, torch.rand(len(rules), dtype=torch.float64)
    together = found(logits, filters(*rules))
    drawn, _ = draw(logits, filters(*rules), chances, BLOCK)
    for n, rule in enumerate(rules):
        alone = logits[n : n + 1].clone()
        assert found(alone, filters(rule)) == together[n : n + 1]
        assert torch.equal(draw(alone, filters(rule), chances[n : n + 1], BLOCK)[0], drawn[n : n + 1])


@pytest.mark.parametrize("spread", [0.1, 6.0])
def test_draws_with_all_kinds_of_rules_are_their_twins(spread: float) -> None:
    logits, chances = torch.randn(len(RULES), VOCAB) * spread, torch.rand(len(RULES), dtype=torch.float64)
    tokens, _ = draw(logits, filters(*RULES), chances, BLOCK)
    assert torch.equal(tokens, sampling.draw(logits, filters(*RULES), chances))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_rows_without_numbers_leave_their_neighbours_alone() -> None:
    logits = torch.randn(len(RULES), VOCAB)
    rules = filters(*RULES)
    wanted = found(logits, rules)
    logits[0, 7], logits[3, 9], logits[4] = float("nan"), float("inf"), float("-inf")
    kept = [n for n in range(len(RULES)) if n not in {0, 3, 4}]
    got = found(logits, rules)
    assert [got[n] for n in kept] == [wanted[n] for n in kept]


def test_drawing_takes_ten_launches() -> None:
    logits, rules = torch.randn(2, VOCAB), filters((1.0, 5, 0.9), (1.0, 0, 1.0))
    with recording() as launches:
        draw(logits, rules, torch.rand(2, dtype=torch.float64), BLOCK)
    names = ["peaks", "tally", "refine", "gather", "settle", "refine", "gather", "settle", "mass", "draw"]
    assert [launch.name for launch in launches] == names
