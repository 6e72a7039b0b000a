# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Samples one token for each row of logits on the device, so that it feeds the next step.

A row of logits is cut into blocks that run in parallel. `thresholds.py` finds the least weights that pass top_k and
top_p. Sums are in fp64, in an order that the row alone determines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, power_above, require
from llama4_local.ops.kernels.overlap import wait_for_inputs
from llama4_local.ops.kernels.softmax_weights import RowLogits, weights
from llama4_local.ops.kernels.thresholds import thresholds

if TYPE_CHECKING:
    from llama4_local.ops.filters import Filters
    from llama4_local.ops.penalties import Penalties

BLOCK = 4096  # logits of a program


class _Limits(NamedTuple):
    """The least weights that pass each filter.

    Args:
        min_p: [rows], fp32.
        top_p: [rows], fp64: 1 where `after_top_p` is undefined.
        after_top_k: [rows], int32: bits of a weight; None where no row ranks its tokens.
        after_top_p: As `after_top_k`.
    """

    min_p: Tensor
    top_p: Tensor
    after_top_k: Tensor | None
    after_top_p: Tensor | None


@triton.jit
def _adjust_kernel(
    logits,  # [rows, vocab], fp32, overwritten
    penalties,  # `Penalties`, or None
    allowed,  # [rows, words], int32: a token mask, one bit for each token; or None: all
    vocab,
    words,
    BLOCK: tl.constexpr,
):
    wait_for_inputs()
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = token < vocab
    place = row * vocab + token
    value = tl.load(logits + place, mask=mask, other=0.0)
    if penalties is not None:
        factor = tl.load(penalties.repetition + row)
        repeated = tl.where(value > 0, value / factor, value * factor)
        value = tl.where(tl.load(penalties.seen + place, mask=mask, other=0) != 0, repeated, value)
        count = tl.load(penalties.counts + place, mask=mask, other=0)
        value -= tl.load(penalties.frequency + row) * count.to(tl.float32)
        value -= tl.load(penalties.presence + row) * (count > 0).to(tl.float32)
    if allowed is not None:
        word = tl.load(allowed + row * words + token // 32, mask=mask, other=0)
        value = tl.where((word >> (token % 32)) & 1 == 1, value, float("-inf"))
    tl.store(logits + place, value, mask=mask)


@triton.jit
def _peaks_kernel(
    logits,  # [rows, vocab], fp32
    tops,  # [rows, blocks], fp32: largest logit of each block; +inf where a block holds a NaN
    places,  # [rows, blocks], int32: the first token with it
    vocab,
    blocks,
    BLOCK: tl.constexpr,
):
    wait_for_inputs()
    row = tl.program_id(0)
    block = tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(logits + row.to(tl.int64) * vocab + token, mask=token < vocab, other=float("-inf"))
    value = tl.where(value == value, value, float("inf"))
    top = tl.max(value, 0)
    tl.store(tops + row * blocks + block, top)
    tl.store(places + row * blocks + block, tl.min(tl.where(value == top, token, vocab - 1), 0))


@triton.jit
def _mass_kernel(
    source,  # `RowLogits`
    limits,  # `_Limits`
    masses,  # [rows, blocks], fp64, written
    vocab,
    blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    wait_for_inputs()
    row = tl.program_id(0)
    block = tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(source, row, token, vocab, blocks, BLOCKS)
    kept = (weight >= _least(limits, row)) & (token < vocab)
    tl.store(masses + row * blocks + block, tl.sum(tl.where(kept, weight.to(tl.float64), 0.0), 0))


@triton.jit
def _least(limits, row):
    """Return the smallest weight that passes all of a row's filters."""
    least = tl.load(limits.min_p + row)
    if limits.after_top_k is not None:
        after_top_k = tl.load(limits.after_top_k + row).to(tl.float32, bitcast=True)
        after_top_p = tl.load(limits.after_top_p + row).to(tl.float32, bitcast=True)
        least = tl.maximum(least, tl.where(tl.load(limits.top_p + row) < 1.0, after_top_p, after_top_k))
    return least


@triton.jit
def _draw_kernel(
    source,  # `RowLogits`
    limits,  # `_Limits`
    places,  # [rows, blocks], int32
    masses,  # [rows, blocks], fp64
    uniforms,  # [rows], fp64
    out,  # [rows], int64
    vocab,
    blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    wait_for_inputs()
    row = tl.program_id(0)
    b = tl.arange(0, BLOCKS)
    block_masses = tl.load(masses + row * blocks + b, mask=b < blocks, other=0.0)
    through = tl.cumsum(block_masses, 0)
    target = tl.load(uniforms + row) * tl.sum(block_masses, 0)
    # Where rounding leaves no block or token beyond the target, the draw is the last one with weight.
    last = tl.max(tl.where(block_masses > 0, b, 0), 0)
    block = tl.minimum(tl.min(tl.where((through > target) & (block_masses > 0), b, BLOCKS), 0), last)
    before = tl.sum(tl.where(b < block, block_masses, 0.0), 0)
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(source, row, token, vocab, blocks, BLOCKS)
    kept = (weight >= _least(limits, row)) & (token < vocab)
    mass = before + tl.cumsum(tl.where(kept, weight.to(tl.float64), 0.0), 0)
    final = tl.max(tl.where(kept, token, 0), 0)
    drawn = tl.minimum(tl.min(tl.where(kept & (mass > target), token, vocab), 0), final)
    # Temperature 0 is greedy: the top-1 token, the first among equals.
    best = tl.load(source.tops + row * blocks + b, mask=b < blocks, other=float("-inf"))
    peak = tl.load(places + row * blocks + b, mask=b < blocks, other=0)
    greedy = tl.min(tl.where((best == tl.max(best, 0)) & (b < blocks), peak, vocab - 1), 0)
    tl.store(out + row, tl.where(tl.load(source.temperature + row) > 0, drawn, greedy).to(tl.int64))


@triton.jit
def _uniforms_kernel(seeds, steps, out):
    wait_for_inputs()
    row = tl.program_id(0)
    seed = tl.load(seeds + row)
    step = tl.load(steps + row)
    zero = (step & 0).to(tl.uint32)
    low, high = (step & 0xFFFFFFFF).to(tl.uint32), ((step >> 32) & 0xFFFFFFFF).to(tl.uint32)
    a, b, _, _ = tl.philox(seed, low, high, zero, zero)
    word = (a >> 5).to(tl.int64) * 67108864 + (b >> 6).to(tl.int64)
    tl.store(out + row, word.to(tl.float64) * (1.0 / 9007199254740992.0))


def adjust(logits: Tensor, penalties: Penalties | None, allowed: Tensor | None, block: int = BLOCK) -> None:
    """Write penalties and token masks into logits; see `Ops.adjust`.

    Args:
        logits: [rows, vocab], fp32.
        penalties: Of the same rows; None for none.
        allowed: As in `Ops.adjust`.
        block: Logits of a program.
    """
    rows, vocab = logits.shape
    contiguous(logits=logits, allowed=allowed)
    if penalties is not None:
        contiguous(seen=penalties.seen, counts=penalties.counts)
    words = ceil_div(vocab, 32)
    require(allowed is None or allowed.shape == (rows, words), f"a mask must be [{rows}, {words}]")
    launch(_adjust_kernel, (rows, ceil_div(vocab, block)))(logits, penalties, allowed, vocab, words, BLOCK=block)


def sample(logits: Tensor, filters: Filters, seeds: Tensor, steps: Tensor) -> Tensor:
    """Return the next token of each row, -1 where no token has weight; see `Ops.sample`."""
    tokens, tops = draw(logits, filters, uniforms(seeds, steps))
    return torch.where(torch.isfinite(tops.amax(-1)), tokens, -1)


def draw(logits: Tensor, filters: Filters, uniforms: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Sample one token for each row; see `reference.sampling.draw`. No value is copied to the host.

    Args:
        logits: [rows, vocab], fp32.
        filters: The rows' filters; a temperature of 0 takes the top-1 token.
        uniforms: [rows], fp64, in [0, 1).
        block: Logits of a program.

    Returns:
        Tokens [rows], int64; largest logits [rows, blocks of the vocabulary], whose largest is not finite in rows
        without a valid token, where the token is arbitrary.
    """
    rows, vocab = logits.shape
    contiguous(logits=logits)
    blocks = ceil_div(vocab, block)
    padded_blocks = power_above(blocks)
    tops = torch.empty((rows, blocks), dtype=torch.float32, device=logits.device)
    places = torch.empty((rows, blocks), dtype=torch.int32, device=logits.device)
    launch(_peaks_kernel, (rows, blocks))(logits, tops, places, vocab, blocks, BLOCK=block)
    source = RowLogits(logits, tops, filters.temperature)
    ranked = thresholds(source, filters, block, padded_blocks) if filters.ranked else (None, None)
    limits = _Limits(filters.min_p, filters.top_p, *ranked)
    masses = torch.empty((rows, blocks), dtype=torch.float64, device=logits.device)
    launch(_mass_kernel, (rows, blocks))(source, limits, masses, vocab, blocks, BLOCK=block, BLOCKS=padded_blocks)
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    launch(_draw_kernel, (rows,), warps=8)(
        source, limits, places, masses, uniforms, out, vocab, blocks, BLOCK=block, BLOCKS=padded_blocks
    )
    return out, tops


def uniforms(seeds: Tensor, steps: Tensor) -> Tensor:
    """Return one number in [0, 1) for each row from its seed and step; see `reference.sampling.uniforms`."""
    out = torch.empty(seeds.shape, dtype=torch.float64, device=seeds.device)
    launch(_uniforms_kernel, (seeds.shape[0],), warps=1)(seeds, steps, out)
    return out
