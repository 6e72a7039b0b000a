# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Down projections of all experts in one grouped product, from the experts' order back to the tokens'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.groups import locate, strip
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, power_above, require
from llama4_local.ops.kernels.overlap import wait_for_inputs
from llama4_local.ops.kernels.products import expert_data, expert_scales, share, store_products
from llama4_local.ops.kernels.weights import Scaled, per_expert

if TYPE_CHECKING:
    from llama4_local.ops.kernels.routing import Dispatch
    from llama4_local.ops.kernels.tiles import Tile
    from llama4_local.weights.quantized import Matrix


@triton.jit(do_not_specialize=["count", "token_tiles"])
def _down_kernel(
    x,  # `Scaled`: [slots, IN]; scales [slots], fp32, for e4m3
    weights,  # `Scaled`: [groups, OUT, IN]
    dispatch,  # `Dispatch`
    out,  # [2·splits, count, OUT]: parts of the routed experts, then of the shared one
    count,
    token_tiles,
    groups,
    OUT,
    IN,
    GROUPS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    wait_for_inputs()
    ROWS: tl.constexpr = PRODUCT.rows
    TOKENS: tl.constexpr = PRODUCT.tokens
    SPLITS: tl.constexpr = PRODUCT.splits
    token_tile, row_tile = strip(tl.program_id(0), token_tiles, tl.cdiv(OUT, ROWS))
    split = tl.program_id(1)
    group, slot, end = locate(dispatch.offsets, groups, token_tile, GROUPS, TOKENS)
    if group >= groups:
        return
    slots = slot + tl.arange(0, TOKENS)
    token_mask = slots < end
    data = expert_data(weights.data, group, 1, OUT, IN, PRODUCT)
    scales = weights.scales
    if scales is not None:
        scales = expert_scales(scales, group, 1, OUT, IN, PRODUCT)
    first, last = share(tl.cdiv(IN, PRODUCT.depth), split, SPLITS)
    tokens = tl.load(dispatch.order + slots, mask=token_mask, other=0)
    part = tl.where(group == groups - 1, SPLITS, 0) + split
    targets = out + (part * count + tokens).to(tl.int64) * OUT
    store_products(data, scales, x, row_tile * ROWS, slots, token_mask, first, last, OUT, IN, targets, PRODUCT)


def down(x: Tensor, weight: Matrix, tile: Tile, dispatch: Dispatch, *, x_scales: Tensor | None = None) -> Tensor:
    """Return the routed and the shared expert's outputs for each token, as parts that the next norm sums in order.

    Args:
        x: [2·tokens, I], bf16, as `gate_up` returns it; e4m3 with its `x_scales` for FP8 weights.
        weight: [experts + 1, out, I], or in bf16 [experts + 1, I, out], the shared expert last.
        tile: The tile config.
        dispatch: The one that `gate_up` took.
        x_scales: [2·tokens], fp32.

    Returns:
        [2·splits, tokens, out]; bf16, or fp32 with splits above one.
    """
    parts = per_expert(weight)
    slots, size = x.shape
    count, rows, groups = slots // 2, parts.outputs, dispatch.groups
    require(parts.inputs == size, f"x has {size} columns and the weight {parts.inputs}")
    require(groups == parts.values.shape[0], f"{groups} groups but weights {parts.values.shape}")
    contiguous(x=x, weight=parts.values, scales=parts.scales)
    token_tiles = dispatch.most_tiles(tile.tokens)
    dtype = torch.float32 if tile.splits > 1 else torch.bfloat16
    out = torch.empty((2 * tile.splits, count, rows), dtype=dtype, device=x.device)
    grid = (token_tiles * ceil_div(rows, tile.rows), tile.splits)
    launch(_down_kernel, grid, warps=tile.warps, stages=tile.stages, matmul=tile.matmul)(
        Scaled(x, x_scales), parts.scaled, dispatch, out, count, token_tiles, groups, rows, size,
        GROUPS=power_above(groups), PRODUCT=parts.product(tile),
    )  # fmt: skip
    return out
