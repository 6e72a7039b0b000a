# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""The threshold among the weights that share its leading bits: the searching half of `thresholds.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from llama4_local.ops.kernels.digit_tallies import ABOVE_ONE, DIGITS, FIRST, SECOND, threshold_aim, threshold_digit
from llama4_local.ops.kernels.overlap import wait_for_inputs
from llama4_local.ops.kernels.softmax_weights import weights


@triton.jit
def _leading_bits(coarse, fine, row, blocks, aim, MASS: tl.constexpr, FEW: tl.constexpr, BLOCKS: tl.constexpr):
    """Return the part of a threshold that the tallies determine.

    That is: its leading bits, the number of bits below them, the last digit, the number of candidates (weights with
    these leading bits), and the count and the mass of the weights above them.
    """
    digit, candidates, count, mass = threshold_digit(coarse, row, blocks, aim, 0, 0.0, MASS, BLOCKS)
    low = tl.maximum(digit, 0) << FIRST
    open_bits = FIRST
    if candidates > FEW:
        digit, candidates, count, mass = threshold_digit(fine, row, blocks, aim, count, mass, MASS, BLOCKS)
        low += tl.maximum(digit, 0) << SECOND
        open_bits = SECOND
    return low, open_bits, digit, candidates, count, mass


@triton.jit
def gather_kernel(
    source,  # `RowLogits`
    top_k,
    p_mass,
    coarse,  # `Tallies`
    fine,  # `Tallies`
    gathered,  # [rows, vocab], fp32, written from the left: the candidates, in the order of their tokens
    vocab,
    blocks,
    MASS: tl.constexpr,
    FEW: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    wait_for_inputs()
    """Store the candidates of each row contiguously."""
    row = tl.program_id(0)
    block = tl.program_id(1)
    aim = threshold_aim(top_k, p_mass, row, MASS)
    if aim == float("inf"):
        return
    low, open_bits, digit, candidates, _, _ = _leading_bits(coarse, fine, row, blocks, aim, MASS, FEW, BLOCKS)
    if candidates == 0:
        return
    b = tl.arange(0, BLOCKS)
    place = (row * blocks + b) * DIGITS + digit
    if open_bits == FIRST:
        in_blocks = tl.load(coarse.counts + place, mask=b < blocks, other=0)
    else:
        in_blocks = tl.load(fine.counts + place, mask=b < blocks, other=0)
    if tl.sum(tl.where(b == block, in_blocks, 0), 0) == 0:
        return
    before = tl.sum(tl.where(b < block, in_blocks, 0), 0)
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(source, row, token, vocab, blocks, BLOCKS)
    bits = weight.to(tl.int32, bitcast=True)
    inside = (bits > 0) & (bits >> open_bits == low >> open_bits) & (token < vocab)
    left = tl.cumsum(inside.to(tl.int32), 0) - 1
    tl.store(gathered + row.to(tl.int64) * vocab + before + left, weight, mask=inside)


@triton.jit
def _extremes(gathered, candidates, SPAN: tl.constexpr):
    """Return the bits of the least and of the largest candidate."""
    least = tl.full((SPAN,), ABOVE_ONE, tl.int32)
    largest = tl.zeros((SPAN,), tl.int32)
    for start in range(0, candidates, SPAN):
        i = start + tl.arange(0, SPAN)
        bits = tl.load(gathered + i, mask=i < candidates, other=0.0).to(tl.int32, bitcast=True)
        least = tl.minimum(least, tl.where(i < candidates, bits, ABOVE_ONE))
        largest = tl.maximum(largest, bits)
    return tl.min(least, 0), tl.max(largest, 0)


@triton.jit
def _split(gathered, candidates, bound, MASS: tl.constexpr, SPAN: tl.constexpr):
    """Return the mass (MASS) or count of the candidates from `bound` on, their least bits, the largest bits below."""
    total = tl.zeros((SPAN,), tl.float64)
    least = tl.full((SPAN,), ABOVE_ONE, tl.int32)
    largest = tl.zeros((SPAN,), tl.int32)
    for start in range(0, candidates, SPAN):
        i = start + tl.arange(0, SPAN)
        weight = tl.load(gathered + i, mask=i < candidates, other=0.0)
        bits = weight.to(tl.int32, bitcast=True)
        amount = weight.to(tl.float64) if MASS else tl.full((SPAN,), 1.0, tl.float64)
        total += tl.where(bits >= bound, amount, 0.0)
        least = tl.minimum(least, tl.where(bits >= bound, bits, ABOVE_ONE))
        largest = tl.maximum(largest, tl.where(bits >= bound, 0, bits))
    return tl.sum(total, 0), tl.min(least, 0), tl.max(largest, 0)


@triton.jit
def _bisect(gathered, candidates, aim, above, MASS: tl.constexpr, SPAN: tl.constexpr):
    """Return the bits of the largest candidate with which the aim is reached, of the least one if none does."""
    least, largest = _extremes(gathered, candidates, SPAN)
    while least < largest:
        # Both are bits of candidates, so that each half of the range holds one at least.
        middle = least + (largest - least + 1) // 2
        amount, from_middle, below = _split(gathered, candidates, middle, MASS, SPAN)
        if above + amount >= aim:
            least = from_middle
        else:
            largest = below
    return least


@triton.jit
def settle_kernel(
    gathered,
    coarse,  # `Tallies`
    fine,  # `Tallies`
    sums,  # [rows, blocks], fp64
    ranks,  # `Ranks`
    p_mass,  # without MASS written: top_p of the mass that top_k keeps; infinite where top_p is 1
    threshold,  # [rows], int32, written: its bits; 0 without a filter
    vocab,
    blocks,
    MASS: tl.constexpr,
    FEW: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    wait_for_inputs()
    """Bisect the candidates of each row, and compute the mass that top_k keeps."""
    row = tl.program_id(0)
    aim = threshold_aim(ranks.top_k, p_mass, row, MASS)
    gathered += row.to(tl.int64) * vocab
    edge = tl.full((), 0, tl.int32)
    kept = tl.full((), 0.0, tl.float64)
    if aim == float("inf"):
        if not MASS:
            b = tl.arange(0, BLOCKS)
            kept = tl.sum(tl.load(sums + row * blocks + b, mask=b < blocks, other=0.0), 0)
    else:
        edge, _, _, candidates, count, mass = _leading_bits(coarse, fine, row, blocks, aim, MASS, FEW, BLOCKS)
        if candidates > 0:
            edge = _bisect(gathered, candidates, aim, mass if MASS else count.to(tl.float64), MASS, SPAN)
        if not MASS:
            # Of the weights equal to the threshold only as many count as top_k still takes.
            more, _, _ = _split(gathered, candidates, edge + 1, False, SPAN)
            heavier, _, _ = _split(gathered, candidates, edge + 1, True, SPAN)
            last = tl.cast(edge, tl.float32, bitcast=True).to(tl.float64)
            kept = mass + heavier + (aim - count - more) * last
    tl.store(threshold + row, edge)
    if not MASS:
        share = tl.load(ranks.top_p + row)
        tl.store(p_mass + row, tl.where(share < 1.0, share * kept, float("inf")))
