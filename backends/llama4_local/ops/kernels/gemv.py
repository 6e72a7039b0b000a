# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Matrix times vector for a handful of tokens: no sorting, no padding to the matrix units' width.

Each token reads the weights for itself; tokens that read the same ones run side by side, so that only the
first of them goes to memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import rounded
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, require
from llama4_local.ops.kernels.products import share
from llama4_local.ops.kernels.weights import Operands, operands, per_expert

if TYPE_CHECKING:
    from llama4_local.ops.kernels.routing import Choice
    from llama4_local.ops.kernels.tiles import VectorTile
    from llama4_local.weights.quantized import Matrix

UNROLL = tl.constexpr(4)  # steps whose loads are in flight together


OFFSET = tl.constexpr(136.0)  # 128 for the bits that make a nibble a number, 8 for the middle of its range


@triton.jit
def _shifted(words, place: tl.constexpr):
    """Return nibble `place` of 32-bit words plus 128, in fp32.

    Moved to bits 16 to 19 of the mantissa of 128, the nibble counts in ones: two operations, and the 136 too
    many are taken off once for a whole sum, which is exact but for the last bits of fp32.
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
    inside,
    first,
    last,
    OUT,
    IN,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Return weights[rows]·x, [ROWS], fp32.

    The lower half of word i holds input 2i of each quarter of a group, the upper half input 2i + 1; see
    `Int4Matrix`, also for groups of 32.
    """
    WORDS: tl.constexpr = GROUP // 8
    i = tl.arange(0, WORDS)
    width = tl.multiple_of(IN // 8, 4)  # groups divide rows; said aloud, since loads are as wide as it is known
    w_rows = words + rows[:, None] * width + i[None, :]
    total = tl.zeros((ROWS, WORDS), tl.float32)
    for step in tl.range(first, last, loop_unroll_factor=UNROLL):
        w = tl.load(w_rows + step * WORDS, mask=inside[:, None], other=0)
        scale = tl.load(scales + step * OUT + rows, mask=inside, other=0.0).to(tl.float32)
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
    inside,
    first,
    last,
    IN,
    FORMAT: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Return weights[rows]·x, [ROWS], fp32."""
    there = inside[:, None]
    k = tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, DEPTH), tl.float32)
    for step in tl.range(first, last, loop_unroll_factor=UNROLL):
        at = step * DEPTH + k
        if EVEN:
            weight = tl.load(weights + rows[:, None] * IN + at[None, :], mask=there, other=0.0)
            value = tl.load(x + at)
        else:
            weight = tl.load(weights + rows[:, None] * IN + at[None, :], there & (at < IN)[None, :], 0.0)
            value = tl.load(x + at, mask=at < IN, other=0.0)
        total += weight.to(tl.float32) * value.to(tl.float32)[None, :]
    result = tl.sum(total, 1)
    if FORMAT == "fp8":
        result *= tl.load(scales + rows, mask=inside, other=0.0)
    return result


@triton.jit(do_not_specialize=["tokens"])
def _gemv_kernel(
    x,  # [slots, IN], or [tokens, IN] with PAIR; for int4 as `_int4_sums` has it
    weights,  # [groups, OUT, IN]; for int4 eight of them as one int32
    scales,
    experts,  # [tokens], or None for a single group
    scores,  # [tokens], fp32, or None
    out,  # [slots, SIZE] with PAIR, else [2·SPLITS or SPLITS, tokens, SIZE]
    tokens,
    groups,
    SIZE,
    IN,
    FORMAT: tl.constexpr,
    PAIR: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
):
    slot = tl.program_id(0)
    split = tl.program_id(2)
    OUT = SIZE * 2 if PAIR else SIZE
    shared = slot // tokens  # 0 for a routed slot, 1 for the shared expert's
    token = slot % tokens
    if experts is not None:
        group = tl.load(experts + token)
        group = tl.where(shared == 1, groups - 1, group).to(tl.int64)
        weights += group * OUT * (IN // 8 if FORMAT == "int4" else IN)
        if FORMAT == "int4":
            scales += group * OUT * (IN // DEPTH)
        if FORMAT == "fp8":
            scales += group * OUT
    x += (token if PAIR else slot).to(tl.int64) * (IN if FORMAT != "int4" else IN // 2 if DEPTH >= 64 else IN // 4)
    # With PAIR the first half of a block is gate, the second half is up, for the same outputs.
    HALF: tl.constexpr = ROWS // 2 if PAIR else ROWS
    places = tl.arange(0, ROWS)
    column = tl.program_id(1) * HALF + places % HALF
    rows = column + tl.where(places < HALF, 0, SIZE)
    inside = column < SIZE
    first, last = share(tl.cdiv(IN, DEPTH), split, SPLITS)
    if FORMAT == "int4":
        value = _int4_sums(weights, scales, x, rows, inside, first, last, OUT, IN, ROWS, DEPTH)
    else:
        value = _sums(weights, scales, x, rows, inside, first, last, IN, FORMAT, ROWS, DEPTH, EVEN)
    if PAIR:
        value, up = tl.split(tl.permute(tl.reshape(value, (2, HALF)), (1, 0)))
        if scores is not None:
            score = tl.where(shared == 1, 1.0, tl.load(scores + token))
            value *= score
            up *= score
        value = value / (1.0 + tl.exp(-value)) * up
        target = slot
    else:
        target = (shared * SPLITS + split) * tokens + token
    column = tl.program_id(1) * HALF + tl.arange(0, HALF)
    tl.store(out + target.to(tl.int64) * SIZE + column, rounded(value, out.dtype.element_ty), mask=column < SIZE)


def linear_vector(x: Tensor, weight: Matrix, tile: VectorTile, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return x times the transpose of a weight matrix, as `linear` does.

    Activations stay in bf16 in every format.

    Args:
        x: [tokens, in], bf16, few tokens.
        weight: [out, in], bf16, FP8 or int4.
        tile: How to cut it.
        dtype: Of the result; parts are always fp32.

    Returns:
        [tokens, out]; with splits above one [splits, tokens, out] in fp32.
    """
    parts = operands(weight)
    split = tile.splits > 1
    out = x.new_empty((tile.splits, x.shape[0], parts.outputs), dtype=torch.float32 if split else dtype)
    _launch(x, parts, tile, out, x.shape[0], parts.outputs, pair=False)
    return out if split else out[0]


def gate_up_vector(x: Tensor, weight: Matrix, tile: VectorTile, choice: Choice | None = None) -> Tensor:
    """Return silu(gate(x)) · up(x) of routed experts and the shared one, slots in the tokens' order.

    Args:
        x: [tokens, in], bf16, few tokens.
        weight: As `gate_up` has it.
        tile: How to cut it; its splits are not used.
        choice: The expert of each token, from `choose`; None for a plain feed-forward.

    Returns:
        [2·tokens, I], bf16: routed slots, then the shared expert's; [tokens, I] without a choice.
    """
    parts = operands(weight) if choice is None else per_expert(weight)
    slots = x.shape[0] * (1 if choice is None else 2)
    out = torch.empty((slots, parts.outputs // 2), dtype=torch.bfloat16, device=x.device)
    _launch(x, parts, tile, out, x.shape[0], parts.outputs // 2, pair=True, choice=choice)
    return out


def down_vector(x: Tensor, weight: Matrix, tile: VectorTile, choice: Choice) -> Tensor:
    """Return what routed and shared experts add to each token, as `down` does.

    Args:
        x: [2·tokens, I], bf16, as `gate_up_vector` returns it.
        weight: As `down` has it.
        tile: How to cut it.
        choice: As `gate_up_vector` had it.

    Returns:
        [2·splits, tokens, out]; bf16, or fp32 with splits above one.
    """
    parts = per_expert(weight)
    count = x.shape[0] // 2
    dtype = torch.float32 if tile.splits > 1 else torch.bfloat16
    out = torch.empty((2 * tile.splits, count, parts.outputs), dtype=dtype, device=x.device)
    _launch(x, parts, tile, out, count, parts.outputs, pair=False, choice=choice)
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
    choice: Choice | None = None,
) -> None:
    require(parts.inputs == x.shape[1], f"x has {x.shape[1]} columns and the weight {parts.inputs}")
    contiguous(x=x, weight=parts.values, scales=parts.scales)
    depth = parts.group or tile.depth
    splits = 1 if pair else tile.splits
    narrow = parts.format == "int4"
    joined = torch.int32 if depth >= 64 else torch.int64
    launch(
        _gemv_kernel,
        (tokens * (1 if choice is None else 2), ceil_div(size, tile.rows // 2 if pair else tile.rows), splits),
        {"x": x.view(joined) if narrow else x, "scales": parts.scales, "out": out}
        | {"weights": parts.values.view(torch.int32) if narrow else parts.values}
        | {"experts": choice.experts if choice else None, "scores": choice.scores if choice and pair else None}
        | {"tokens": tokens, "groups": parts.values.shape[0] if choice else 1, "SIZE": size, "IN": parts.inputs},
        {"FORMAT": parts.format, "PAIR": pair, "SPLITS": splits, "ROWS": tile.rows}
        | {"DEPTH": depth, "EVEN": parts.inputs % depth == 0},
        warps=tile.warps,
        stages=tile.stages,
    )
