# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Dense matrix product for projections and head, in every weight format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.groups import strip
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, require
from llama4_local.ops.kernels.overlap import wait_for_inputs
from llama4_local.ops.kernels.products import share, store_products
from llama4_local.ops.kernels.weights import Scaled, operands

if TYPE_CHECKING:
    from llama4_local.ops.kernels.tiles import Tile
    from llama4_local.weights.quantized import Matrix


@triton.jit(do_not_specialize=["count"])
def _linear_kernel(
    x,  # `Scaled`: [count, IN]; scales [count], fp32, for e4m3
    weights,  # `Scaled`: [OUT, IN]
    out,  # [splits, count, OUT]
    count,
    OUT,
    IN,
    PRODUCT: tl.constexpr,
):
    wait_for_inputs()
    ROWS: tl.constexpr = PRODUCT.rows
    TOKENS: tl.constexpr = PRODUCT.tokens
    SPLITS: tl.constexpr = PRODUCT.splits
    token_tile, row_tile = strip(tl.program_id(0), tl.cdiv(count, TOKENS), tl.cdiv(OUT, ROWS))
    tokens = token_tile * TOKENS + tl.arange(0, TOKENS)
    split = tl.program_id(1)
    token_mask = tokens < count
    first, last = share(tl.cdiv(IN, PRODUCT.depth), split, SPLITS)
    targets = out + (split * count + tokens).to(tl.int64) * OUT
    store_products(
        weights.data, weights.scales, x, row_tile * ROWS, tokens, token_mask, first, last, OUT, IN, targets, PRODUCT
    )


def linear(
    x: Tensor, weight: Matrix, tile: Tile, *, x_scales: Tensor | None = None, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Return x times the transpose of a weight matrix.

    Args:
        x: [tokens, in], bf16; e4m3 with its `x_scales` for FP8 weights (see `quantize_rows`).
        weight: [out, in], bf16, FP8 or int4.
        tile: The tile config.
        x_scales: [tokens], fp32.
        dtype: Of the result; parts are always fp32.

    Returns:
        [tokens, out]; with splits above one [splits, tokens, out] in fp32, still to be summed in that order.
    """
    parts = operands(weight)
    count, size = x.shape
    require(parts.inputs == size, f"x has {size} columns and the weight {parts.inputs}")
    contiguous(x=x, weight=parts.values, scales=parts.scales)
    split = tile.splits > 1
    out = x.new_empty((tile.splits, count, parts.outputs), dtype=torch.float32 if split else dtype)
    grid = (ceil_div(count, tile.tokens) * ceil_div(parts.outputs, tile.rows), tile.splits)
    launch(_linear_kernel, grid, warps=tile.warps, stages=tile.stages, matmul=tile.matmul)(
        Scaled(x, x_scales), parts.scaled, out, count, parts.outputs, size, PRODUCT=parts.product(tile)
    )
    return out if split else out[0]
