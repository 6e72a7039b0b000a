from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llama4_local.ops.filters import Filters
from llama4_local.ops.kernels import sampling as kernels
from llama4_local.ops.kernels.sampling import uniforms
from llama4_local.ops.penalties import Penalties
from llama4_local.ops.reference import sampling

VOCAB, BLOCK = 300, 128  # three blocks, the last one ragged


def draw(logits: Tensor, rules: Filters, chances: Tensor) -> tuple[Tensor, Tensor]:
    return kernels.draw(logits, rules, chances, BLOCK)


def adjust(logits: Tensor, penalties: Penalties | None = None, allowed: Tensor | None = None) -> Tensor:
    adjusted = logits.clone()
    kernels.adjust(adjusted, penalties, allowed, block=BLOCK)
    return adjusted


def filters(
    count: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, ranked: bool = True
) -> Filters:
    return Filters(
        torch.full((count,), temperature),
        torch.full((count,), top_k),
        torch.full((count,), top_p, dtype=torch.float64),
        torch.full((count,), min_p),
        ranked,
    )


def peaked(count: int, vocab: int = VOCAB) -> Tensor:
    return torch.randn(count, vocab) * 4


@pytest.mark.parametrize(
    "given",
    [
        {"ranked": False},
        {"ranked": False, "min_p": 0.05, "temperature": 0.7},
        {"top_k": 7},
        {"top_p": 0.9, "temperature": 0.6},
        {"top_k": 50, "top_p": 0.5, "min_p": 0.01, "temperature": 1.5},
        {"top_p": 1e-9},
        {"top_k": 1},
    ],
    ids=str,
)
def test_draw_matches_its_twin(given: dict[str, float]) -> None:
    logits, chances = peaked(4), torch.rand(4, dtype=torch.float64)
    rules = filters(4, **given)  # type: ignore[arg-type]
    tokens, _ = draw(logits, rules, chances)
    assert torch.equal(tokens, sampling.draw(logits, rules, chances))


def test_draw_of_rows_with_different_filters_matches_its_twin() -> None:
    logits, chances = peaked(5), torch.tensor([0.0, 0.5, 0.999999, 0.3, 0.7], dtype=torch.float64)
    rules = Filters(
        torch.tensor([0.6, 1.0, 2.0, 1.0, 0.9]),
        torch.tensor([0, 3, 0, 40, 0]),
        torch.tensor([0.9, 1.0, 1.0, 0.95, 0.2], dtype=torch.float64),
        torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0]),
        True,
    )
    assert torch.equal(draw(logits, rules, chances)[0], sampling.draw(logits, rules, chances))


def test_draw_keeps_or_drops_equal_logits_together() -> None:
    logits = torch.zeros(6, VOCAB)
    logits[:, 126:130] = 2.0
    chances = torch.linspace(0, 0.999, 6, dtype=torch.float64)
    rules = filters(6, top_k=2)
    tokens, _ = draw(logits, rules, chances)
    assert torch.equal(tokens, sampling.draw(logits, rules, chances))
    assert set(tokens.tolist()) == {126, 127, 128, 129}


def test_draw_without_temperature_takes_the_first_argmax() -> None:
    logits = peaked(3)
    logits[1, [8, 150, 299]] = 40.0
    tokens, _ = draw(logits, filters(3, temperature=0.0, ranked=False), torch.rand(3, dtype=torch.float64))
    assert torch.equal(tokens, logits.argmax(-1))
    assert tokens[1] == 8


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_draw_reports_nan_and_returns_a_valid_token(value: float) -> None:
    logits = peaked(2)
    logits[1, 77] = value
    tokens, tops = draw(logits, filters(2, top_p=0.9), torch.rand(2, dtype=torch.float64))
    assert tops.amax(-1).isfinite().tolist() == [True, False]
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < VOCAB


@pytest.mark.filterwarnings("ignore:invalid value")
def test_draw_reports_a_row_without_tokens() -> None:
    logits = torch.full((1, VOCAB), float("-inf"))
    tokens, tops = draw(logits, filters(1), torch.rand(1, dtype=torch.float64))
    assert not tops.amax(-1).isfinite().any()
    assert 0 <= int(tokens) < VOCAB


def test_adjust_applies_the_penalties_of_its_twin() -> None:
    logits = peaked(3)
    seen, counts = torch.rand(3, VOCAB) < 0.3, torch.randint(0, 3, (3, VOCAB), dtype=torch.int32)
    rules = (torch.tensor([1.0, 1.3, 0.8]), torch.tensor([0.0, 0.5, -0.5]), torch.tensor([0.2, 0.0, 0.1]))
    penalties = Penalties(seen, counts, *rules)
    assert torch.allclose(adjust(logits, penalties), sampling.penalize(logits, *penalties))


def test_adjust_applies_a_token_mask() -> None:
    logits, allowed = peaked(2, 70), torch.zeros(2, 3, dtype=torch.int32)
    allowed[0, 2], allowed[1, 0] = 1 << 5, -(1 << 31)
    masked = adjust(logits, allowed=allowed)
    assert [row.isfinite().nonzero().flatten().tolist() for row in masked] == [[69], [31]]
    assert masked[0, 69] == logits[0, 69]


def test_uniforms_depend_on_seed_and_step_only() -> None:
    seeds = torch.tensor([0, 1, -1, 2**62 + 12345, 7, 7])
    steps = torch.tensor([0, 5, 2**33, 1, 2, 3])
    counters = torch.stack([steps & 0xFFFFFFFF, steps >> 32, steps * 0, steps * 0], dim=-1)
    first, second, _, _ = sampling.philox(seeds, counters)
    expected = [((a >> 5) * 2**26 + (b >> 6)) / 2**53 for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert uniforms(seeds, steps).tolist() == expected
