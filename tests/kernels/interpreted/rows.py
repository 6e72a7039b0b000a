from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernel_inputs import ROUNDED, activations, error
from llama4_local.ops.filters import Filters
from llama4_local.ops.kernels import sampling as kernels
from llama4_local.ops.kernels.norms import add_rms_norm, rms_norm
from llama4_local.ops.kernels.sampling import uniforms
from llama4_local.ops.reference import rows, sampling

VOCAB, BLOCK = 300, 128  # three blocks, the last one ragged


def draw(logits: Tensor, rules: Filters, chances: Tensor) -> tuple[Tensor, Tensor]:
    return kernels.draw(logits, rules, chances, BLOCK)


def adjust(logits: Tensor, *given: Tensor, allowed: Tensor | None = None) -> Tensor:
    return kernels.adjust(logits, *given, allowed=allowed, block=BLOCK)


@pytest.mark.parametrize("size", [64, 100, 640])
def test_the_norm_is_its_twins(size: int) -> None:
    x, weight = activations(3, size), activations(size)
    assert error(rms_norm(x, weight, 1e-5), rows.rms_norm(x.double().float(), weight.float(), 1e-5)) < 2 * ROUNDED


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_parts_are_added_to_the_residual_in_fp32(parts: int) -> None:
    updates, residual, weight = torch.randn(parts, 4, 96), activations(4, 96), activations(96)
    normed, total = add_rms_norm(updates, residual, weight, 1e-5)
    wanted = updates.double().sum(0) + residual.double()
    assert error(total, wanted) < ROUNDED
    assert error(normed, rows.rms_norm(total.float(), weight.float(), 1e-5)) < 2 * ROUNDED


def test_a_single_update_needs_no_axis_for_parts() -> None:
    update, residual, weight = activations(4, 96), activations(4, 96), activations(96)
    for got, wanted in zip(
        add_rms_norm(update, residual, weight, 1e-5), add_rms_norm(update[None], residual, weight, 1e-5), strict=True
    ):
        assert torch.equal(got, wanted)


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
def test_a_draw_is_its_twins(given: dict[str, float]) -> None:
    logits, chances = peaked(4), torch.rand(4, dtype=torch.float64)
    rules = filters(4, **given)  # type: ignore[arg-type]
    tokens, _ = draw(logits, rules, chances)
    assert torch.equal(tokens, sampling.draw(logits, rules, chances))


def test_rows_with_different_rules_share_a_launch() -> None:
    logits, chances = peaked(5), torch.tensor([0.0, 0.5, 0.999999, 0.3, 0.7], dtype=torch.float64)
    rules = Filters(
        torch.tensor([0.6, 1.0, 2.0, 1.0, 0.9]),
        torch.tensor([0, 3, 0, 40, 0]),
        torch.tensor([0.9, 1.0, 1.0, 0.95, 0.2], dtype=torch.float64),
        torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0]),
        True,
    )
    assert torch.equal(draw(logits, rules, chances)[0], sampling.draw(logits, rules, chances))


def test_equally_likely_tokens_pass_or_fail_together() -> None:
    logits = torch.zeros(6, VOCAB)
    logits[:, 126:130] = 2.0
    chances = torch.linspace(0, 0.999, 6, dtype=torch.float64)
    rules = filters(6, top_k=2)
    tokens, _ = draw(logits, rules, chances)
    assert torch.equal(tokens, sampling.draw(logits, rules, chances))
    assert set(tokens.tolist()) == {126, 127, 128, 129}


def test_without_temperature_the_first_of_the_likeliest_is_taken() -> None:
    logits = peaked(3)
    logits[1, [8, 150, 299]] = 40.0
    tokens, _ = draw(logits, filters(3, temperature=0.0, ranked=False), torch.rand(3, dtype=torch.float64))
    assert torch.equal(tokens, logits.argmax(-1))
    assert tokens[1] == 8


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_show_and_lead_nowhere(value: float) -> None:
    logits = peaked(2)
    logits[1, 77] = value
    tokens, tops = draw(logits, filters(2, top_p=0.9), torch.rand(2, dtype=torch.float64))
    assert tops.amax(-1).isfinite().tolist() == [True, False]
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < VOCAB


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_row_that_rules_every_token_out_shows() -> None:
    logits = torch.full((1, VOCAB), float("-inf"))
    tokens, tops = draw(logits, filters(1), torch.rand(1, dtype=torch.float64))
    assert not tops.amax(-1).isfinite().any()
    assert 0 <= int(tokens) < VOCAB


def test_penalties_are_their_twins() -> None:
    logits = peaked(3)
    seen, counts = torch.rand(3, VOCAB) < 0.3, torch.randint(0, 3, (3, VOCAB), dtype=torch.int32)
    rules = (torch.tensor([1.0, 1.3, 0.8]), torch.tensor([0.0, 0.5, -0.5]), torch.tensor([0.2, 0.0, 0.1]))
    assert torch.allclose(adjust(logits, seen, counts, *rules), sampling.penalize(logits, seen, counts, *rules))


def test_a_mask_of_bits_rules_tokens_out() -> None:
    logits, allowed = peaked(2, 70), torch.zeros(2, 3, dtype=torch.int32)
    allowed[0, 2], allowed[1, 0] = 1 << 5, -(1 << 31)
    masked = adjust(logits, allowed=allowed)
    assert [row.isfinite().nonzero().flatten().tolist() for row in masked] == [[69], [31]]
    assert masked[0, 69] == logits[0, 69]


def test_draws_depend_on_seed_and_step_alone() -> None:
    seeds = torch.tensor([0, 1, -1, 2**62 + 12345, 7, 7])
    steps = torch.tensor([0, 5, 2**33, 1, 2, 3])
    counters = torch.stack([steps & 0xFFFFFFFF, steps >> 32, steps * 0, steps * 0], dim=-1)
    first, second, _, _ = sampling.philox(seeds, counters)
    wanted = [((a >> 5) * 2**26 + (b >> 6)) / 2**53 for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert uniforms(seeds, steps).tolist() == wanted
