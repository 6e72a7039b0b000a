from __future__ import annotations

import pytest
import torch

from kernel_inputs import ROUNDED, activations, error
from llama4_local.ops.kernels.norms import add_rms_norm, rms_norm, sum_parts
from llama4_local.ops.reference import rows


@pytest.mark.parametrize("size", [64, 100, 640])
def test_rms_norm_matches_its_twin(size: int) -> None:
    x, weight = activations(3, size), activations(size)
    assert error(rms_norm(x, weight, 1e-5), rows.rms_norm(x.double().float(), weight.float(), 1e-5)) < 2 * ROUNDED


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_add_rms_norm_adds_parts_to_the_residual_in_fp32(parts: int) -> None:
    updates, residual, weight = torch.randn(parts, 4, 96), activations(4, 96), activations(96)
    normed, total = add_rms_norm(updates, residual, weight, 1e-5)
    expected = updates.double().sum(0) + residual.double()
    assert error(total, expected) < ROUNDED
    assert error(normed, rows.rms_norm(total.float(), weight.float(), 1e-5)) < 2 * ROUNDED


def test_add_rms_norm_takes_a_single_update_without_a_parts_axis() -> None:
    update, residual, weight = activations(4, 96), activations(4, 96), activations(96)
    for got, expected in zip(
        add_rms_norm(update, residual, weight, 1e-5), add_rms_norm(update[None], residual, weight, 1e-5), strict=True
    ):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("parts", [1, 3])
def test_parts_are_summed_in_their_order_and_rounded_once(parts: int) -> None:
    updates = torch.randn(parts, 4, 100)
    assert torch.equal(sum_parts(updates), rows.sum_in_order(updates).to(torch.bfloat16))
