# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Gate and up projections of all experts at once, joined by SwiGLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import rounded
from llama4_local.ops.kernels.groups import locate, strip
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, power_above, require
from llama4_local.ops.kernels.products import products
from llama4_local.ops.kernels.tiles import STRIP, Tile
from llama4_local.ops.kernels.weights import operands, per_expert

if TYPE_CHECKING:
    from llama4_local.ops.kernels.routing import Routing
    from llama4_local.weights.quantized import Matrix


@triton.jit(do_not_specialize=["count", "token_tiles"])
def _gate_up_kernel(
    x,  # [tokens, IN]
    x_scales,  # [tokens], fp32, for e4m3
    weights,  # [groups, 2·SIZE, IN], gate first
    scales,
    order,  # [slots]: the token of each slot; None: slots are tokens
    scores,  # [slots], fp32
    offsets,  # [groups + 1]
    out,  # [slots, SIZE]
    count,
    token_tiles,
    groups,
    SIZE,
    IN,
    FORMAT: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    STRIP: tl.constexpr,
):
    token_tile, row_tile = strip(tl.program_id(0), token_tiles, tl.cdiv(SIZE, ROWS // 2), STRIP)
    if order is None:
        slots = token_tile * TOKENS + tl.arange(0, TOKENS)
        live = slots < count
        tokens = slots
    else:
        group, slot, end = locate(offsets, groups, token_tile, GROUPS, TOKENS)
        if group >= groups:
            return
        slots = slot + tl.arange(0, TOKENS)
        live = slots < end
        tokens = tl.load(order + slots, mask=live, other=0)
        weights += group.to(tl.int64) * 2 * SIZE * (IN // 2 if FORMAT == "int4" else IN)
        if FORMAT == "int4":
            scales += group.to(tl.int64) * 2 * SIZE * (IN // GROUP)
        if FORMAT == "fp8":
            scales += group * 2 * SIZE
    # The upper half of a block is gate, the lower half is up, for the same outputs.
    HALF: tl.constexpr = ROWS // 2
    places = tl.arange(0, ROWS)
    column = row_tile * HALF + places % HALF
    rows = column + tl.where(places < HALF, 0, SIZE)
    total = products(
        weights,
        scales,
        x,
        rows,
        column < SIZE,
        tokens,
        live,
        0,
        tl.cdiv(IN, DEPTH),
        2 * SIZE,
        IN,
        FORMAT,
        ROWS,
        TOKENS,
        DEPTH,
        GROUP,
        EVEN,
    )
    if FORMAT == "fp8":
        total *= tl.load(scales + rows, mask=column < SIZE, other=0.0)[:, None]
        total *= tl.load(x_scales + tokens, mask=live, other=0.0)[None, :]
    if order is not None:
        # The score belongs to the input; the products are linear in it, so it may come here, in fp32.
        total *= tl.load(scores + slots, mask=live, other=0.0)[None, :]
    gate, up = tl.split(tl.permute(tl.reshape(total, (2, HALF, TOKENS)), (1, 2, 0)))
    value = gate / (1.0 + tl.exp(-gate)) * up
    columns = row_tile * HALF + tl.arange(0, HALF)
    targets = out + slots[None, :] * SIZE + columns[:, None]
    tl.store(targets, rounded(value, out.dtype.element_ty), mask=(columns < SIZE)[:, None] & live[None, :])


def gate_up(
    x: Tensor, weight: Matrix, tile: Tile, *, routing: Routing | None = None, x_scales: Tensor | None = None
) -> Tensor:
    """Return silu(gate(x)) · up(x) for each slot of a routing, or for each token without one.

    Args:
        x: [tokens, in], bf16; e4m3 with its `x_scales` for FP8 weights.
        weight: [experts + 1, 2·I, in], or in bf16 [experts + 1, in, 2·I], the shared expert last; [2·I, in] without a
            routing. Gate first.
        tile: How to cut it; half of its rows are gate and half up; splits must be 1.
        routing: Which token fills which slot, from `route`.
        x_scales: [tokens], fp32.

    Returns:
        [slots, I], bf16; two slots for each token with a routing: routed ones in the experts' order, then the
        shared expert's.
    """
    parts = operands(weight) if routing is None else per_expert(weight)
    count, size = x.shape
    slots = count if routing is None else 2 * count
    half = parts.outputs // 2
    groups = 1 if routing is None else routing.offsets.shape[0] - 1
    require(parts.inputs == size, f"x has {size} columns and the weight {parts.inputs}")
    require(routing is None or groups == parts.values.shape[0], f"{groups} groups but weights {parts.values.shape}")
    require(tile.splits == 1, "gate and up cannot be split: SwiGLU needs whole sums")
    contiguous(x=x, weight=parts.values, scales=parts.scales)
    token_tiles = ceil_div(count, tile.tokens) if routing is None else routing.most_tiles(tile.tokens)
    out = torch.empty((slots, half), dtype=torch.bfloat16, device=x.device)
    depth = parts.depth(tile)
    launch(
        _gate_up_kernel,
        (token_tiles * ceil_div(half, tile.rows // 2),),
        {"x": x, "x_scales": x_scales, "weights": parts.values, "scales": parts.scales, "out": out}
        | {"order": None if routing is None else routing.order, "scores": None if routing is None else routing.scores}
        | {"offsets": None if routing is None else routing.offsets, "count": count, "token_tiles": token_tiles}
        | {"groups": groups, "SIZE": half, "IN": size},
        {"FORMAT": parts.format, "GROUPS": power_above(groups), "ROWS": tile.rows, "TOKENS": tile.tokens}
        | {"DEPTH": depth, "GROUP": parts.group, "EVEN": size % depth == 0, "STRIP": STRIP},
        warps=tile.warps,
        stages=tile.stages,
        matmul=tile.matmul,
    )
    return out
