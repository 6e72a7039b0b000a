# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Matrix times vector for a handful of tokens: no sorting, no padding to the matrix units' width.

Each token's programs read the weights; tokens with the same expert run at the same time, so that only the first
read of a block goes to memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import OFFSET, rounded
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, require
from llama4_local.ops.kernels.overlap import release_next_kernel, wait_for_inputs
from llama4_local.ops.kernels.products import share
from llama4_local.ops.kernels.weights import Operands, Scaled, operands, per_expert

if TYPE_CHECKING:
    from llama4_local.ops.kernels.routing import Routing
    from llama4_local.ops.kernels.tiles import VectorTile
    from llama4_local.weights.quantized import Matrix

UNROLL = tl.constexpr(4)  # steps whose loads are in flight together


@triton.jit
def _shifted(words, place: tl.constexpr):
    """Return nibble `place` of 32-bit words plus 128, in fp32.

    In bits 16 to 19 of the mantissa of 128 a nibble counts in ones: two operations for each weight. The 136 too
    many are subtracted once from a whole sum, which is exact but for the last bits of fp32.
    """
    bits: tl.constexpr = 4 * place
    moved = words << (16 - bits) if bits < 16 else words >> (bits - 16)
    return ((moved & 0x000F0000) | 0x43000000).to(tl.float32, bitcast=True)


@triton.jit
def _wide(pairs):
    """Return the two bf16 of 32-bit words in fp32, the first of them in the lower half."""
    low = (pairs << 16).to(tl.float32, bitcast=True)
    return low, (pairs & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _four(x):
    """Return the four bf16 of 64-bit words in fp32."""
    a, b = _wide(x.to(tl.int32))
    c, d = _wide((x >> 32).to(tl.int32))
    return a, b, c, d


@triton.jit
def _int4_sums(
    words,  # [OUT, IN/8], int32: eight nibbles each
    scales,  # [IN/GROUP, OUT]
    x,  # [IN/2], int32: two bf16 each; for groups of 32 [IN/4], int64: four
    rows,
    row_mask,
    first,
    last,
    OUT,
    IN,
    PRODUCT: tl.constexpr,
):
    """Return weights[rows]·x, [rows], fp32.

    The lower half of word i holds input 2i of each quarter of a group, the upper half input 2i + 1; see
    `Int4Matrix`, also for groups of 32.
    """
    ROWS: tl.constexpr = PRODUCT.rows
    GROUP: tl.constexpr = PRODUCT.group
    WORDS: tl.constexpr = GROUP // 8
    i = tl.arange(0, WORDS)
    width = tl.multiple_of(IN // 8, 4)  # groups divide rows; the hint widens the loads
    w_rows = words + rows[:, None] * width + i[None, :]
    total = tl.zeros((ROWS, WORDS), tl.float32)
    for step in tl.range(first, last, loop_unroll_factor=UNROLL):
        w = tl.load(w_rows + step * WORDS, mask=row_mask[:, None], other=0)
        scale = tl.load(scales + step * OUT + rows, mask=row_mask, other=0.0).to(tl.float32)
        if GROUP >= 64:
            own = x + step * (GROUP // 2) + i
            a, e = _wide(tl.load(own))
            b, f = _wide(tl.load(own + WORDS))
            c, g = _wide(tl.load(own + 2 * WORDS))
            d, h = _wide(tl.load(own + 3 * WORDS))
        else:
            a, c, e, g = _four(tl.load(x + step * (GROUP // 4) + i))
            b, d, f, h = _four(tl.load(x + step * (GROUP // 4) + WORDS + i))
        part = (a + b + c + d + e + f + g + h)[None, :] * -OFFSET
        part += _shifted(w, 0) * a[None, :]
        part += _shifted(w, 1) * b[None, :]
        part += _shifted(w, 2) * c[None, :]
        part += _shifted(w, 3) * d[None, :]
        part += _shifted(w, 4) * e[None, :]
        part += _shifted(w, 5) * f[None, :]
        part += _shifted(w, 6) * g[None, :]
        part += _shifted(w, 7) * h[None, :]
        total += part * scale[:, None]
    return tl.sum(total, 1)


@triton.jit
def _sums(
    weights,
    scales,
    x,  # [IN]
    rows,
    row_mask,
    first,
    last,
    IN,
    PRODUCT: tl.constexpr,
):
    """Return weights[rows]·x, [rows], fp32."""
    ROWS: tl.constexpr = PRODUCT.rows
    DEPTH: tl.constexpr = PRODUCT.depth
    mask = row_mask[:, None]
    k = tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, DEPTH), tl.float32)
    for step in tl.range(first, last, loop_unroll_factor=UNROLL):
        at = step * DEPTH + k
        if PRODUCT.even:
            weight = tl.load(weights + rows[:, None] * IN + at[None, :], mask=mask, other=0.0)
            value = tl.load(x + at)
        else:
            weight = tl.load(weights + rows[:, None] * IN + at[None, :], mask & (at < IN)[None, :], 0.0)
            value = tl.load(x + at, mask=at < IN, other=0.0)
        total += weight.to(tl.float32) * value.to(tl.float32)[None, :]
    result = tl.sum(total, 1)
    if PRODUCT.format == "fp8":
        result *= tl.load(scales + rows, mask=row_mask, other=0.0)
    return result


@triton.jit(do_not_specialize=["tokens"])
def _gemv_kernel(
    x,  # [slots, IN], or [tokens, IN] with PAIR; for int4 as `_int4_sums` reads it
    weights,  # `Scaled`: [groups, OUT, IN]; for int4 eight of them as one int32
    routing,  # `Routing`, or None for a single group
    out,  # [slots, SIZE] with PAIR, else [2·splits or splits, tokens, SIZE]
    tokens,
    groups,
    SIZE,
    IN,
    PAIR: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    wait_for_inputs()
    ROWS: tl.constexpr = PRODUCT.rows
    SPLITS: tl.constexpr = PRODUCT.splits
    INT4: tl.constexpr = PRODUCT.format == "int4"
    slot = tl.program_id(0)
    split = tl.program_id(2)
    OUT = SIZE * 2 if PAIR else SIZE
    shared = slot // tokens  # 0 for a routed slot, 1 for the shared expert's
    token = slot % tokens
    data = weights.data
    scales = weights.scales
    if routing is not None:
        group = tl.load(routing.experts + token)
        group = tl.where(shared == 1, groups - 1, group).to(tl.int64)
        data += group * OUT * (IN // 8 if INT4 else IN)
        if INT4:
            scales += group * OUT * (IN // PRODUCT.group)
        if PRODUCT.format == "fp8":
            scales += group * OUT
    x += (token if PAIR else slot).to(tl.int64) * (IN if not INT4 else IN // 2 if PRODUCT.group >= 64 else IN // 4)
    # With PAIR the first half of a block is gate, the second half is up, for the same outputs.
    HALF: tl.constexpr = ROWS // 2 if PAIR else ROWS
    places = tl.arange(0, ROWS)
    column = tl.program_id(1) * HALF + places % HALF
    rows = column + tl.where(places < HALF, 0, SIZE)
    row_mask = column < SIZE
    first, last = share(tl.cdiv(IN, PRODUCT.depth), split, SPLITS)
    if INT4:
        value = _int4_sums(data, scales, x, rows, row_mask, first, last, OUT, IN, PRODUCT)
    else:
        value = _sums(data, scales, x, rows, row_mask, first, last, IN, PRODUCT)
    release_next_kernel()
    if PAIR:
        value, up = tl.split(tl.permute(tl.reshape(value, (2, HALF)), (1, 0)))
        if routing is not None:
            score = tl.where(shared == 1, 1.0, tl.load(routing.scores + token))
            value *= score
            up *= score
        value = value / (1.0 + tl.exp(-value)) * up
        target = slot
    else:
        target = (shared * SPLITS + split) * tokens + token
    column = tl.program_id(1) * HALF + tl.arange(0, HALF)
    tl.store(out + target.to(tl.int64) * SIZE + column, rounded(value, out.dtype.element_ty), mask=column < SIZE)


def linear_vector(x: Tensor, weight: Matrix, tile: VectorTile, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return x times the transpose of a weight matrix, as `linear` does; activations are bf16 in every format.

    Args:
        x: [tokens, in], bf16, few tokens.
        weight: [out, in], bf16, FP8 or int4.
        tile: The tile config.
        dtype: Of the result; parts are always fp32.

    Returns:
        [tokens, out]; with splits above one [splits, tokens, out] in fp32.
    """
    parts = operands(weight)
    split = tile.splits > 1
    out = x.new_empty((tile.splits, x.shape[0], parts.outputs), dtype=torch.float32 if split else dtype)
    _launch(x, parts, tile, out, x.shape[0], parts.outputs, pair=False)
    return out if split else out[0]


def gate_up_vector(x: Tensor, weight: Matrix, tile: VectorTile, routing: Routing | None = None) -> Tensor:
    """Return silu(gate(x)) · up(x) of routed experts and the shared one, slots in the tokens' order.

    Args:
        x: [tokens, in], bf16, few tokens.
        weight: As in `gate_up`.
        tile: The tile config; its splits are not used.
        routing: The expert of each token; None for a plain feed-forward.

    Returns:
        [2·tokens, I], bf16: routed slots, then the shared expert's; [tokens, I] without a routing.
    """
    parts = operands(weight) if routing is None else per_expert(weight)
    slots = x.shape[0] * (1 if routing is None else 2)
    out = torch.empty((slots, parts.outputs // 2), dtype=torch.bfloat16, device=x.device)
    _launch(x, parts, tile, out, x.shape[0], parts.outputs // 2, pair=True, routing=routing)
    return out


def down_vector(x: Tensor, weight: Matrix, tile: VectorTile, routing: Routing) -> Tensor:
    """Return the routed and the shared expert's outputs for each token, as `down` does.

    Args:
        x: [2·tokens, I], bf16, as `gate_up_vector` returns it.
        weight: As in `down`.
        tile: The tile config.
        routing: The one that `gate_up_vector` took.

    Returns:
        [2·splits, tokens, out]; bf16, or fp32 with splits above one.
    """
    parts = per_expert(weight)
    count = x.shape[0] // 2
    dtype = torch.float32 if tile.splits > 1 else torch.bfloat16
    out = torch.empty((2 * tile.splits, count, parts.outputs), dtype=dtype, device=x.device)
    _launch(x, parts, tile, out, count, parts.outputs, pair=False, routing=routing)
    return out


def _launch(
    x: Tensor,
    parts: Operands,
    tile: VectorTile,
    out: Tensor,
    tokens: int,
    size: int,
    *,
    pair: bool,
    routing: Routing | None = None,
) -> None:
    require(parts.inputs == x.shape[1], f"x has {x.shape[1]} columns and the weight {parts.inputs}")
    contiguous(x=x, weight=parts.values, scales=parts.scales)
    product = parts.vector_product(tile, splits=1 if pair else tile.splits)
    weights, groups = parts.scaled, 1 if routing is None else parts.values.shape[0]
    if parts.format == "int4":  # read in wide words
        x = x.view(torch.int32 if parts.group >= 64 else torch.int64)
        weights = Scaled(parts.values.view(torch.int32), parts.scales)
    slots = tokens * (1 if routing is None else 2)
    grid = (slots, ceil_div(size, tile.rows // 2 if pair else tile.rows), product.splits)
    launch(_gemv_kernel, grid, warps=tile.warps, stages=tile.stages)(
        x, weights, routing, out, tokens, groups, size, parts.inputs, PAIR=pair, PRODUCT=product
    )
