from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4_local.config.formats import int4_group
from llama4_local.ops.reference.quantized import linear, quantize_rows
from llama4_local.weights.quantize import packer, quantize_fp8, quantize_int4, stack
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix
from llama4sdk.errors import InvalidRequest


def rmse(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).square().mean().sqrt())


def absmax_over_8(weight: torch.Tensor, group: int) -> torch.Tensor:
    groups = weight.float().unflatten(-1, (-1, group))
    scales = groups.abs().amax(-1, keepdim=True) / 8
    return ((groups / scales).round().clamp(-8, 7) * scales).flatten(-2)


# All matrices of Scout's layers have one of these two widths; 160 outputs are enough for a steady figure.
@pytest.mark.parametrize("inputs", [5120, 8192], ids=["projections, gate and up", "down"])
def test_the_scale_search_beats_absmax_over_8_by_5_percent(inputs: int) -> None:
    torch.manual_seed(inputs)
    weight = (torch.randn(160, inputs) * 0.02).to(torch.bfloat16)
    packed = quantize_int4(weight)
    assert packed.group == 128
    assert rmse(packed.dequantize(), weight) < 0.95 * rmse(absmax_over_8(weight, 128), weight)


def test_packing_in_several_threads_packs_what_one_does() -> None:
    weight = (torch.randn(700, 2048) * 0.02).to(torch.bfloat16)
    usual = torch.get_num_threads()
    matrices: list[list[torch.Tensor]] = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            matrices.append([quantize(weight).dequantize() for quantize in (quantize_int4, quantize_fp8)])
    finally:
        torch.set_num_threads(usual)
    assert all(torch.equal(one, several) for one, several in zip(*matrices, strict=True))
    rows = torch.cat([quantize_int4(row[None]).dequantize() for row in weight[::50]])
    assert torch.equal(matrices[0][0][::50], rows)


def test_a_word_holds_an_input_of_each_quarter_of_its_group_the_first_quarters_lowest() -> None:
    weight = torch.zeros(1, 128)
    weight[0, 3], weight[0, 32 + 3], weight[0, 64 + 3], weight[0, 96 + 3] = -8.0, 4.0, 1.0, -3.0
    packed = quantize_int4(weight)
    assert packed.packed[0, 6].item() == (0 | (12 << 4))
    assert packed.packed[0, 7].item() == (9 | (5 << 4))
    assert torch.equal(packed.dequantize(), weight)


def test_a_byte_of_a_small_group_holds_an_input_of_each_half() -> None:
    weight = torch.zeros(1, 32)
    weight[0, 3], weight[0, 16 + 3] = -8.0, 4.0
    packed = quantize_int4(weight)
    assert packed.packed[0, 3].item() == (0 | (12 << 4))
    assert torch.equal(packed.dequantize(), weight)


@settings(deadline=None, max_examples=25)
@given(
    group=st.sampled_from([32, 64, 128]),
    rows=st.integers(1, 5),
    groups=st.integers(1, 3),
    scale=st.floats(1e-6, 1e4),
    seed=st.integers(0, 2**31),
)
def test_int4_is_never_much_worse_than_absmax_over_8(
    group: int, rows: int, groups: int, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(rows, groups * group) * scale
    matrix = quantize_int4(weight, group)
    assert matrix.group == group
    assert tuple(matrix.shape) == tuple(weight.shape)
    assert rmse(matrix.dequantize(), weight) <= rmse(absmax_over_8(weight, group), weight) * 1.01


@pytest.mark.parametrize("group", [32, 128])
def test_zeros_stay_zeros(group: int) -> None:
    assert not quantize_int4(torch.zeros(2, 256), group).dequantize().any()
    assert not quantize_fp8(torch.zeros(2, 256)).dequantize().any()


def test_fp8_keeps_each_rows_largest() -> None:
    weight = torch.randn(6, 64) * torch.logspace(-4, 4, 6)[:, None]
    before = weight.clone()
    matrix = quantize_fp8(weight)
    assert torch.equal(weight, before)
    assert torch.allclose(matrix.dequantize().abs().amax(-1), weight.abs().amax(-1), rtol=1e-6)
    assert float((matrix.dequantize() - weight).norm() / weight.norm()) < 0.04


@pytest.mark.parametrize("kind", ["int4", "fp8"])
def test_a_stack_holds_what_went_in(kind: str) -> None:
    weights = torch.randn(3, 8, 128)
    pack = packer("int4" if kind == "int4" else "fp8")
    stacked = stack((pack(weight) for weight in weights), 3)
    assert tuple(stacked.shape) == (3, 8, 128)
    for index, weight in enumerate(weights):
        assert torch.equal(stacked[index].dequantize(), pack(weight).dequantize())


def test_groups_must_divide_the_inputs() -> None:
    assert [int4_group(size) for size in (5120, 192, 96)] == [128, 64, 32]
    with pytest.raises(InvalidRequest, match="fp8"):
        int4_group(100)
    with pytest.raises(InvalidRequest, match="groups of 128"):
        quantize_int4(torch.zeros(1, 192), 128)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="fit"):
        Int4Matrix(torch.zeros(4, 64, dtype=torch.uint8), torch.zeros(1, 5, dtype=torch.bfloat16))
    with pytest.raises(InvalidRequest, match="fit"):
        Fp8Matrix(torch.zeros(4, 64).to(torch.float8_e4m3fn), torch.zeros(5))


def test_packed_products_use_the_packed_numbers() -> None:
    weight, x = torch.randn(24, 128), torch.randn(3, 128)
    int4, fp8 = quantize_int4(weight), quantize_fp8(weight)
    assert torch.allclose(linear(x, int4), x @ int4.dequantize().t(), atol=1e-4)
    values, scales = quantize_rows(x)
    assert torch.allclose(linear(x, fp8), (values.float() * scales[:, None]) @ fp8.dequantize().t(), atol=1e-4)


def test_activations_beyond_the_bound_are_cut_off() -> None:
    x = torch.tensor([[1.0, -2.0, 5000.0]])
    values, scales = quantize_rows(x, bound=1200.0)
    assert (values.float() * scales[:, None])[0, 2].item() == pytest.approx(1200.0)
