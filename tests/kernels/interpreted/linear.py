from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernel_inputs import FORMATS, ROUNDED, WHOLE, activations, error, exact, matrix, narrowed, tile
from llama4_local.ops.kernels.activations import quantize_rows
from llama4_local.ops.kernels.linear import linear
from llama4_local.ops.kernels.tiles import Format
from llama4_local.ops.reference import quantized as reference
from llama4sdk.errors import InvalidRequest


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("tokens", "outputs", "inputs"), [(1, 64, 128), (5, 96, 192), (33, 130, 128)])
def test_a_product_is_its_twins(form: Format, tokens: int, outputs: int, inputs: int) -> None:
    weight = matrix(form, outputs, inputs)
    x, scales, worth = narrowed(activations(tokens, inputs), form)
    got = linear(x, weight, tile(), x_scales=scales)
    assert got.dtype == torch.bfloat16
    assert error(got, worth @ exact(weight).t()) < ROUNDED


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("splits", [2, 3])
def test_splits_sum_up_to_the_product(form: Format, splits: int) -> None:
    weight = matrix(form, 64, 256)
    x, scales, worth = narrowed(activations(5, 256), form)
    parts = linear(x, weight, tile(splits=splits), x_scales=scales)
    assert parts.shape == (splits, 5, 64)
    assert error(parts.sum(0), worth @ exact(weight).t()) < WHOLE


@pytest.mark.parametrize("form", ["bf16", "fp8"])
def test_inputs_need_not_fill_the_last_step(form: Format) -> None:
    weight = matrix(form, 64, 112)
    x, scales, worth = narrowed(activations(3, 112), form)
    assert error(linear(x, weight, tile(), x_scales=scales), worth @ exact(weight).t()) < ROUNDED


@pytest.mark.parametrize("group", [32, 64, 128])
def test_every_size_of_group_is_unpacked(group: int) -> None:
    weight, x = matrix("int4", 64, 256, group=group), activations(4, 256)
    assert error(linear(x, weight, tile(), dtype=torch.float32), x.double() @ exact(weight).t()) < WHOLE


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize(("inputs", "splits"), [(256, 2), (320, 2), (96, 1)])
def test_a_step_may_cover_several_groups(group: int, inputs: int, splits: int) -> None:
    weight, x = matrix("int4", 64, inputs // group * group, group=group), activations(9, inputs // group * group)
    parts = linear(x, weight, replace(tile(splits=splits), tokens=8, depth=128), dtype=torch.float32)
    assert error(parts.reshape(-1, 9, 64).sum(0), x.double() @ exact(weight).t()) < WHOLE


@pytest.mark.parametrize("form", FORMATS)
def test_a_row_does_not_depend_on_the_rest_of_the_batch(form: Format) -> None:
    weight, x = matrix(form, 96, 128), activations(37, 128)
    alone, scales, _ = narrowed(x[:1], form)
    crowd, crowd_scales, _ = narrowed(torch.cat([activations(19, 128), x[:1], x[1:]]), form)
    first = linear(alone, weight, tile(splits=2), x_scales=scales)
    within = linear(crowd, weight, tile(splits=2), x_scales=crowd_scales)
    assert torch.equal(first[:, 0], within[:, 19])


@pytest.mark.parametrize("bound", [None, 2.0])
def test_activations_become_the_twins_e4m3(bound: float | None) -> None:
    x = activations(7, 200) * torch.logspace(-3, 3, 7)[:, None].to(torch.bfloat16)
    x[3] = 0
    values, scales = quantize_rows(x, bound)
    wanted, wanted_scales = reference.quantize_rows(x, bound)
    assert torch.equal(scales, wanted_scales)
    assert torch.equal(values.view(torch.uint8) & 0x7F, wanted.view(torch.uint8) & 0x7F)
    assert torch.equal(values.float(), wanted.float())


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="columns"):
        linear(activations(2, 64), matrix("bf16", 64, 128), tile())
    with pytest.raises(InvalidRequest, match="contiguous"):
        linear(activations(128, 2).t(), matrix("bf16", 64, 128), tile())
