# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Dense matrix product for projections and head, in every weight format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import rounded
from llama4_local.ops.kernels.groups import strip
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, require
from llama4_local.ops.kernels.products import products, share
from llama4_local.ops.kernels.tiles import STRIP, Tile
from llama4_local.ops.kernels.weights import operands

if TYPE_CHECKING:
    from llama4_local.weights.quantized import Matrix


@triton.jit(do_not_specialize=["count"])
def _linear_kernel(
    x,  # [count, IN]
    x_scales,  # [count], fp32, for e4m3
    weights,
    scales,
    out,  # [SPLITS, count, OUT]
    count,
    OUT,
    IN,
    FORMAT: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    STRIP: tl.constexpr,
):
    token_tile, row_tile = strip(tl.program_id(0), tl.cdiv(count, TOKENS), tl.cdiv(OUT, ROWS), STRIP)
    tokens = token_tile * TOKENS + tl.arange(0, TOKENS)
    rows = row_tile * ROWS + tl.arange(0, ROWS)
    inside = rows < OUT
    split = tl.program_id(1)
    live = tokens < count
    first, last = share(tl.cdiv(IN, DEPTH), split, SPLITS)
    total = products(
        weights, scales, x, rows, inside, tokens, live, first, last, OUT, IN, FORMAT, ROWS, TOKENS, DEPTH, GROUP, EVEN
    )
    if FORMAT == "fp8":
        total *= tl.load(scales + rows, mask=inside, other=0.0)[:, None]
        total *= tl.load(x_scales + tokens, mask=live, other=0.0)[None, :]
    places = out + (split * count + tokens).to(tl.int64)[None, :] * OUT + rows[:, None]
    tl.store(places, rounded(total, out.dtype.element_ty), mask=inside[:, None] & live[None, :])


def linear(
    x: Tensor, weight: Matrix, tile: Tile, *, x_scales: Tensor | None = None, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Return x times the transpose of a weight matrix.

    Args:
        x: [tokens, in], bf16; e4m3 with its `x_scales` for FP8 weights (see `quantize_rows`).
        weight: [out, in], bf16, FP8 or int4.
        tile: How to cut it.
        x_scales: [tokens], fp32.
        dtype: Of the result; parts are always fp32.

    Returns:
        [tokens, out]; with splits above one [splits, tokens, out] in fp32, still to be summed in that order.
    """
    parts = operands(weight)
    count, size = x.shape
    rows = parts.outputs
    require(parts.inputs == size, f"x has {size} columns and the weight {parts.inputs}")
    contiguous(x=x, weight=parts.values, scales=parts.scales)
    split = tile.splits > 1
    out = x.new_empty((tile.splits, count, rows), dtype=torch.float32 if split else dtype)
    depth = parts.depth(tile)
    launch(
        _linear_kernel,
        (ceil_div(count, tile.tokens) * ceil_div(rows, tile.rows), tile.splits),
        {"x": x, "x_scales": x_scales, "weights": parts.values, "scales": parts.scales, "out": out}
        | {"count": count, "OUT": rows, "IN": size},
        {"FORMAT": parts.format, "SPLITS": tile.splits, "ROWS": tile.rows, "TOKENS": tile.tokens}
        | {"DEPTH": depth, "GROUP": parts.group, "EVEN": size % depth == 0, "STRIP": STRIP},
        warps=tile.warps,
        stages=tile.stages,
        matmul=tile.matmul,
    )
    return out if split else out[0]
