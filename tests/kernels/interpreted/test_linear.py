from __future__ import annotations

import pytest
import torch

from kernel_inputs import FORMATS, ROUNDED, WHOLE, activations, error, exact, matrix, operand, tile
from llama4_local.ops.kernels.activations import quantize_rows
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.linear import linear
from llama4_local.ops.kernels.tile_table import vector_tiles
from llama4_local.ops.kernels.tiles import Format
from llama4_local.ops.reference import quantized as reference
from llama4_local.ops.reference.quantized import QuantizedReferenceOps
from llama4_local.weights.quantized import Int4Matrix
from llama4sdk.errors import InvalidRequest
from long_runs import thinned


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize(("tokens", "outputs", "inputs"), [(1, 64, 128), (5, 96, 192), (33, 130, 128)])
def test_linear_matches_its_twin(weight_format: Format, tokens: int, outputs: int, inputs: int) -> None:
    weight = matrix(weight_format, outputs, inputs)
    x, scales, worth = operand(activations(tokens, inputs), weight_format)
    got = linear(x, weight, tile(), x_scales=scales)
    assert got.dtype == torch.bfloat16
    assert error(got, worth @ exact(weight).t()) < ROUNDED


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("splits", [2, 3])
def test_linear_splits_sum_to_the_product(weight_format: Format, splits: int) -> None:
    weight = matrix(weight_format, 64, 256)
    x, scales, worth = operand(activations(5, 256), weight_format)
    parts = linear(x, weight, tile(splits=splits), x_scales=scales)
    assert parts.shape == (splits, 5, 64)
    assert error(parts.sum(0), worth @ exact(weight).t()) < WHOLE


@pytest.mark.parametrize("weight_format", ["bf16", "fp8"])
def test_linear_of_inputs_that_do_not_fill_the_last_step(weight_format: Format) -> None:
    weight = matrix(weight_format, 64, 112)
    x, scales, worth = operand(activations(3, 112), weight_format)
    assert error(linear(x, weight, tile(), x_scales=scales), worth @ exact(weight).t()) < ROUNDED


@pytest.mark.parametrize("group", [32, 64, 128])
def test_linear_unpacks_every_int4_group_size(group: int) -> None:
    weight, x = matrix("int4", 64, 256, group=group), activations(4, 256)
    assert error(linear(x, weight, tile(), dtype=torch.float32), x.double() @ exact(weight).t()) < WHOLE


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize(("inputs", "splits"), [(256, 2), (320, 2), (96, 1)])
def test_linear_steps_cover_several_int4_groups(group: int, inputs: int, splits: int) -> None:
    weight, x = matrix("int4", 64, inputs // group * group, group=group), activations(9, inputs // group * group)
    parts = linear(x, weight, tile(splits=splits)._replace(tokens=8, depth=128), dtype=torch.float32)
    assert error(parts.reshape(-1, 9, 64).sum(0), x.double() @ exact(weight).t()) < WHOLE


@pytest.mark.parametrize(
    ("splits", "tokens", "warps"),
    thinned([(s, t, w) for s in (1, 3, 5) for t, w in ((8, 1), (8, 4), (16, 2))], 4),
)
def test_int4_in_halves_for_few_tokens(splits: int, tokens: int, warps: int) -> None:
    weight, x = matrix("int4", 100, 512), activations(19, 512)  # with 5 splits of 4 steps the last has none
    config = tile(splits=splits)._replace(tokens=tokens, depth=128, warps=warps)
    parts = linear(x, weight, config, dtype=torch.float32)
    assert error(parts.reshape(-1, 19, 100).sum(0), x.double() @ exact(weight).t()) < WHOLE


@pytest.mark.parametrize("tokens", [8, 64])
def test_int4_groups_with_a_scale_of_zero_add_nothing(tokens: int) -> None:
    weight, x = matrix("int4", 64, 512), activations(9, 512)
    assert isinstance(weight, Int4Matrix)
    scales = weight.scales.clone()
    scales[0], scales[3:5], scales[-1] = 0, 0, 0
    some_zero = Int4Matrix(weight.packed, scales)
    got = linear(x, some_zero, tile()._replace(tokens=tokens, depth=128), dtype=torch.float32)
    assert error(got, x.double() @ exact(some_zero).t()) < WHOLE


def test_int4_scales_of_very_different_sizes_keep_their_sums() -> None:
    weight, x = matrix("int4", 64, 512), activations(9, 512)
    assert isinstance(weight, Int4Matrix)
    spread = weight.scales * 2.0 ** torch.randint(-60, 60, weight.scales.shape)
    wide = Int4Matrix(weight.packed, spread.to(torch.bfloat16))
    got = linear(x, wide, tile()._replace(tokens=64, depth=128), dtype=torch.float32)
    assert error(got, x.double() @ exact(wide).t()) < WHOLE


@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_row_of_linear_is_independent_of_the_rest_of_the_batch(weight_format: Format) -> None:
    weight, x = matrix(weight_format, 96, 128), activations(37, 128)
    alone, scales, _ = operand(x[:1], weight_format)
    crowd, crowd_scales, _ = operand(torch.cat([activations(19, 128), x[:1], x[1:]]), weight_format)
    first = linear(alone, weight, tile(splits=2), x_scales=scales)
    within = linear(crowd, weight, tile(splits=2), x_scales=crowd_scales)
    assert torch.equal(first[:, 0], within[:, 19])


@pytest.mark.parametrize("bound", [None, 2.0])
def test_quantize_rows_matches_its_twin(bound: float | None) -> None:
    x = activations(7, 200) * torch.logspace(-3, 3, 7)[:, None].to(torch.bfloat16)
    x[3] = 0
    values, scales = quantize_rows(x, bound)
    expected, expected_scales = reference.quantize_rows(x, bound)
    assert torch.equal(scales, expected_scales)
    assert torch.equal(values.view(torch.uint8) & 0x7F, expected.view(torch.uint8) & 0x7F)
    assert torch.equal(values.float(), expected.float())


def test_int4_in_activation_order_is_refused() -> None:
    weight = matrix("int4", 64, 128)
    assert isinstance(weight, Int4Matrix)
    ordered = Int4Matrix(weight.packed, weight.scales, torch.randperm(128, dtype=torch.int32))
    with pytest.raises(InvalidRequest, match="device='cpu'"):
        linear(activations(2, 128), ordered, tile())


def test_linear_refuses_shapes_that_do_not_match() -> None:
    with pytest.raises(InvalidRequest, match="columns"):
        linear(activations(2, 64), matrix("bf16", 64, 128), tile())
    with pytest.raises(InvalidRequest, match="contiguous"):
        linear(activations(128, 2).t(), matrix("bf16", 64, 128), tile())


@pytest.mark.parametrize("rows", [1, 4, 40])
def test_a_head_in_fp8_matches_its_twin(rows: int) -> None:
    head, x = matrix("fp8", 700, 128), activations(rows, 128)
    got = KernelOps().head(x, head)
    expected = QuantizedReferenceOps(vector_tiles()["fp8"][0]).linear(x.float(), head)
    assert got.shape == (rows, 700)
    assert error(got, expected) < ROUNDED
