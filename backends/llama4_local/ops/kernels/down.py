# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Down projections of all experts at once, back from the experts' order to the tokens'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import rounded
from llama4_local.ops.kernels.groups import locate, strip
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, power_above, require
from llama4_local.ops.kernels.products import products, share
from llama4_local.ops.kernels.tiles import STRIP, Tile
from llama4_local.ops.kernels.weights import per_expert

if TYPE_CHECKING:
    from llama4_local.ops.kernels.routing import Routing
    from llama4_local.weights.quantized import Matrix


@triton.jit(do_not_specialize=["count", "token_tiles"])
def _down_kernel(
    x,  # [slots, IN]
    x_scales,  # [slots], fp32, for e4m3
    weights,  # [groups, OUT, IN]
    scales,
    order,  # [slots]: the token of each slot
    offsets,  # [groups + 1]
    out,  # [2·SPLITS, count, OUT]: parts of the routed experts, then of the shared one
    count,
    token_tiles,
    groups,
    OUT,
    IN,
    FORMAT: tl.constexpr,
    GROUPS: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    STRIP: tl.constexpr,
):
    token_tile, row_tile = strip(tl.program_id(0), token_tiles, tl.cdiv(OUT, ROWS), STRIP)
    split = tl.program_id(1)
    group, slot, end = locate(offsets, groups, token_tile, GROUPS, TOKENS)
    if group >= groups:
        return
    slots = slot + tl.arange(0, TOKENS)
    live = slots < end
    weights += group.to(tl.int64) * OUT * (IN // 2 if FORMAT == "int4" else IN)
    if FORMAT == "int4":
        scales += group.to(tl.int64) * OUT * (IN // GROUP)
    if FORMAT == "fp8":
        scales += group * OUT
    rows = row_tile * ROWS + tl.arange(0, ROWS)
    inside = rows < OUT
    first, last = share(tl.cdiv(IN, DEPTH), split, SPLITS)
    total = products(
        weights, scales, x, rows, inside, slots, live, first, last, OUT, IN, FORMAT, ROWS, TOKENS, DEPTH, GROUP, EVEN
    )
    if FORMAT == "fp8":
        total *= tl.load(scales + rows, mask=inside, other=0.0)[:, None]
        total *= tl.load(x_scales + slots, mask=live, other=0.0)[None, :]
    tokens = tl.load(order + slots, mask=live, other=0)
    part = tl.where(group == groups - 1, SPLITS, 0) + split
    places = out + (part * count + tokens).to(tl.int64)[None, :] * OUT + rows[:, None]
    tl.store(places, rounded(total, out.dtype.element_ty), mask=inside[:, None] & live[None, :])


def down(x: Tensor, weight: Matrix, tile: Tile, routing: Routing, *, x_scales: Tensor | None = None) -> Tensor:
    """Return what routed and shared experts add to each token, as parts that the next norm sums in order.

    Args:
        x: [2·tokens, I], bf16, as `gate_up` returns it; e4m3 with its `x_scales` for FP8 weights.
        weight: [experts + 1, out, I], or in bf16 [experts + 1, I, out], the shared expert last.
        tile: How to cut it.
        routing: As `gate_up` had it.
        x_scales: [2·tokens], fp32.

    Returns:
        [2·splits, tokens, out]; bf16, or fp32 with splits above one.
    """
    parts = per_expert(weight)
    slots, size = x.shape
    count, rows = slots // 2, parts.outputs
    groups = routing.offsets.shape[0] - 1
    require(parts.inputs == size, f"x has {size} columns and the weight {parts.inputs}")
    require(groups == parts.values.shape[0], f"{groups} groups but weights {parts.values.shape}")
    contiguous(x=x, weight=parts.values, scales=parts.scales)
    token_tiles = routing.most_tiles(tile.tokens)
    dtype = torch.float32 if tile.splits > 1 else torch.bfloat16
    out = torch.empty((2 * tile.splits, count, rows), dtype=dtype, device=x.device)
    depth = parts.depth(tile)
    launch(
        _down_kernel,
        (token_tiles * ceil_div(rows, tile.rows), tile.splits),
        {"x": x, "x_scales": x_scales, "weights": parts.values, "scales": parts.scales, "out": out}
        | {"order": routing.order, "offsets": routing.offsets, "count": count, "token_tiles": token_tiles}
        | {"groups": groups, "OUT": rows, "IN": size},
        {"FORMAT": parts.format, "GROUPS": power_above(groups), "SPLITS": tile.splits, "ROWS": tile.rows}
        | {"TOKENS": tile.tokens, "DEPTH": depth, "GROUP": parts.group, "EVEN": size % depth == 0, "STRIP": STRIP},
        warps=tile.warps,
        stages=tile.stages,
        matmul=tile.matmul,
    )
    return out
