# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Gate and up projections of all experts in one grouped product, joined by SwiGLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import rounded
from llama4_local.ops.kernels.groups import locate, strip
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, power_above, require
from llama4_local.ops.kernels.overlap import release_next_kernel, wait_for_inputs
from llama4_local.ops.kernels.products import (
    expert_data,
    expert_scales,
    paired_products,
    products,
    scaled_by_row,
)
from llama4_local.ops.kernels.weights import Scaled, operands, per_expert

if TYPE_CHECKING:
    from llama4_local.ops.kernels.routing import Dispatch
    from llama4_local.ops.kernels.tiles import Tile
    from llama4_local.weights.quantized import Matrix


@triton.jit(do_not_specialize=["count", "token_tiles"])
def _gate_up_kernel(
    x,  # `Scaled`: [tokens, IN]; scales [tokens], fp32, for e4m3
    weights,  # `Scaled`: [groups, 2·SIZE, IN], gate first
    dispatch,  # `Dispatch`; None: slots are tokens
    out,  # [slots, SIZE]
    count,
    token_tiles,
    groups,
    SIZE,
    IN,
    GROUPS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    wait_for_inputs()
    HALF: tl.constexpr = PRODUCT.rows // 2
    ROWS: tl.constexpr = PRODUCT.rows
    TOKENS: tl.constexpr = PRODUCT.tokens
    token_tile, row_tile = strip(tl.program_id(0), token_tiles, tl.cdiv(SIZE, HALF))
    data = weights.data
    scales = weights.scales
    if dispatch is None:
        slots = token_tile * TOKENS + tl.arange(0, TOKENS)
        token_mask = slots < count
        tokens = slots
    else:
        group, slot, end = locate(dispatch.offsets, groups, token_tile, GROUPS, TOKENS)
        if group >= groups:
            return
        slots = slot + tl.arange(0, TOKENS)
        token_mask = slots < end
        tokens = tl.load(dispatch.order + slots, mask=token_mask, other=0)
        data = expert_data(weights.data, group, 2, SIZE, IN, PRODUCT)
        if scales is not None:
            scales = expert_scales(scales, group, 2, SIZE, IN, PRODUCT)
    # The upper half of a block is gate, the lower half is up, for the same outputs.
    steps = tl.cdiv(IN, PRODUCT.depth)
    if PRODUCT.paired:
        outputs = row_tile * HALF + tl.arange(0, HALF)
        real = outputs < SIZE
        gate, up = paired_products(
            data,
            scales,
            x.data,
            outputs,
            outputs + SIZE,
            real,
            real,
            tokens,
            token_mask,
            0,
            steps,
            2 * SIZE,
            IN,
            PRODUCT,
        )
        if dispatch is not None:
            score = tl.load(dispatch.scores + slots, mask=token_mask, other=0.0)[None, :]
            gate *= score
            up *= score
    else:
        places = tl.arange(0, ROWS)
        column = row_tile * HALF + places % HALF
        rows = column + tl.where(places < HALF, 0, SIZE)
        row_mask = column < SIZE
        total = products(data, scales, x.data, rows, row_mask, tokens, token_mask, 0, steps, 2 * SIZE, IN, PRODUCT)
        if PRODUCT.format == "fp8":
            total = scaled_by_row(total, scales, x.scales, rows, row_mask, tokens, token_mask)
        if dispatch is not None:
            # The score multiplies the input; the products are linear in it, so that it may multiply them, in fp32.
            total *= tl.load(dispatch.scores + slots, mask=token_mask, other=0.0)[None, :]
        gate, up = tl.split(tl.permute(tl.reshape(total, (2, HALF, TOKENS)), (1, 2, 0)))
    release_next_kernel()
    value = gate / (1.0 + tl.exp(-gate)) * up
    columns = row_tile * HALF + tl.arange(0, HALF)
    targets = out + slots[None, :] * SIZE + columns[:, None]
    tl.store(targets, rounded(value, out.dtype.element_ty), mask=(columns < SIZE)[:, None] & token_mask[None, :])


def gate_up(
    x: Tensor, weight: Matrix, tile: Tile, *, dispatch: Dispatch | None = None, x_scales: Tensor | None = None
) -> Tensor:
    """Return silu(gate(x)) · up(x) for each slot of a dispatch, or for each token without one.

    Args:
        x: [tokens, in], bf16; e4m3 with its `x_scales` for FP8 weights.
        weight: [experts + 1, 2·I, in], or in bf16 [experts + 1, in, 2·I], the shared expert last; [2·I, in] without a
            dispatch. Gate first.
        tile: The tile config; half of its rows are gate and half up; splits must be 1.
        dispatch: The token of each slot.
        x_scales: [tokens], fp32.

    Returns:
        [slots, I], bf16; two slots for each token with a dispatch: routed ones in the experts' order, then the
        shared expert's.
    """
    parts = operands(weight) if dispatch is None else per_expert(weight)
    count, size = x.shape
    slots = count if dispatch is None else 2 * count
    half = parts.outputs // 2
    groups = 1 if dispatch is None else dispatch.groups
    require(parts.inputs == size, f"x has {size} columns and the weight {parts.inputs}")
    require(dispatch is None or groups == parts.values.shape[0], f"{groups} groups but weights {parts.values.shape}")
    require(tile.splits == 1, "gate and up cannot be split: SwiGLU needs whole sums")
    contiguous(x=x, weight=parts.values, scales=parts.scales)
    token_tiles = ceil_div(count, tile.tokens) if dispatch is None else dispatch.most_tiles(tile.tokens)
    out = torch.empty((slots, half), dtype=torch.bfloat16, device=x.device)
    grid = (token_tiles * ceil_div(half, tile.rows // 2),)
    launch(_gate_up_kernel, grid, warps=tile.warps, stages=tile.stages, matmul=tile.matmul)(
        Scaled(x, x_scales), parts.scaled, dispatch, out, count, token_tiles, groups, half, size,
        GROUPS=power_above(groups), PRODUCT=parts.product(tile),
    )  # fmt: skip
    return out
