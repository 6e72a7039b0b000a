# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Counts and sums of softmax weights by five bits of their fp32 encoding: the tallying half of `thresholds.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl

from llama4_local.ops.kernels.overlap import wait_for_inputs
from llama4_local.ops.kernels.softmax_weights import weights

if TYPE_CHECKING:
    from torch import Tensor

DIGITS = tl.constexpr(32)
FIRST = tl.constexpr(25)  # bits below the first digit
SECOND = tl.constexpr(20)  # bits below the second
ABOVE_ONE = tl.constexpr(1 << 30)  # above the bits of every weight; the bits of a NaN are above it, or negative


class Tallies(NamedTuple):
    """Weights by digit, for each block of a row.

    Args:
        counts: [rows, blocks, DIGITS], int32.
        masses: [rows, blocks, DIGITS], fp64: their sums.
    """

    counts: Tensor
    masses: Tensor


class Ranks(NamedTuple):
    """Filters that need ranked tokens.

    Args:
        top_k: [rows], int64; 0 for all tokens.
        top_p: [rows], fp64.
    """

    top_k: Tensor
    top_p: Tensor


@triton.jit
def tally_kernel(
    source,  # `RowLogits`
    ranks,  # `Ranks`
    coarse,  # `Tallies`, written: by the first digit
    sums,  # [rows, blocks], fp64, written: of all weights
    vocab,
    blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    wait_for_inputs()
    """Tally the weights of each block by their first digit, and sum all of them."""
    row = tl.program_id(0)
    block = tl.program_id(1)
    every = tl.load(ranks.top_k + row) == 0
    share = tl.load(ranks.top_p + row)
    if every & (share >= 1.0):
        return
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(source, row, token, vocab, blocks, BLOCKS)
    tl.store(sums + row * blocks + block, tl.sum(tl.where(token < vocab, weight.to(tl.float64), 0.0), 0))
    # All weights below (1 - top_p) / vocab together are less than the mass that top_p may leave out.
    spare = ((1.0 - share).to(tl.float32) / vocab).to(tl.int32, bitcast=True) >> FIRST
    bits = weight.to(tl.int32, bitcast=True)
    digit = bits >> FIRST
    counted = (bits > 0) & (bits < ABOVE_ONE) & (digit >= tl.where(every, spare, 0)) & (token < vocab)
    _tally(weight, tl.where(counted, digit, -1), coarse, row * blocks + block)


@triton.jit
def refine_kernel(
    source,  # `RowLogits`
    top_k,
    p_mass,  # [rows], fp64
    coarse,  # `Tallies`
    fine,  # `Tallies`, written: by the second digit, of weights whose first digit is the threshold's
    vocab,
    blocks,
    MASS: tl.constexpr,
    FEW: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    wait_for_inputs()
    """Tally the weights that share the threshold's first digit by their second, where they are many."""
    row = tl.program_id(0)
    block = tl.program_id(1)
    aim = threshold_aim(top_k, p_mass, row, MASS)
    if aim == float("inf"):
        return
    first, candidates, _, _ = threshold_digit(coarse, row, blocks, aim, 0, 0.0, MASS, BLOCKS)
    if candidates <= FEW:
        return
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(source, row, token, vocab, blocks, BLOCKS)
    bits = weight.to(tl.int32, bitcast=True)
    counted = (bits > 0) & (bits >> FIRST == first) & (token < vocab)
    _tally(weight, tl.where(counted, (bits >> SECOND) & (DIGITS - 1), -1), fine, row * blocks + block)


@triton.jit
def _tally(weight, digit, tallies, place):
    """Count and sum weights by digit, -1 for weights that are left out, and store both."""
    c = tl.arange(0, DIGITS)
    count = tl.zeros((DIGITS,), tl.int32)
    mass = tl.zeros((DIGITS,), tl.float64)
    amount = weight.to(tl.float64)
    for one in range(tl.min(tl.where(digit < 0, DIGITS, digit), 0), tl.max(digit, 0) + 1):
        hit = digit == one
        count = tl.where(c == one, tl.sum(hit.to(tl.int32), 0), count)
        mass = tl.where(c == one, tl.sum(tl.where(hit, amount, 0.0), 0), mass)
    tl.store(tallies.counts + place * DIGITS + c, count)
    tl.store(tallies.masses + place * DIGITS + c, mass)


@triton.jit
def threshold_aim(top_k, p_mass, row, MASS: tl.constexpr):
    """Return the mass (MASS) or count that the weights from the threshold on must reach; infinite without a filter."""
    if MASS:
        aim = tl.load(p_mass + row)
    else:
        limit = tl.load(top_k + row)
        aim = tl.where(limit == 0, float("inf"), limit.to(tl.float64))
    return aim


@triton.jit
def threshold_digit(tallies, row, blocks, aim, count_above, mass_above, MASS: tl.constexpr, BLOCKS: tl.constexpr):
    """Return the threshold's digit, and the weights around it.

    That is: the largest digit with which the aim is reached, -1 for none; the number of weights with it; the count
    and the mass of the weights above it.
    """
    b = tl.arange(0, BLOCKS)[:, None]
    c = tl.arange(0, DIGITS)
    place = (row * blocks + b) * DIGITS + c[None, :]
    count = tl.sum(tl.load(tallies.counts + place, mask=b < blocks, other=0), 0)
    mass = tl.sum(tl.load(tallies.masses + place, mask=b < blocks, other=0.0), 0)
    counted = count_above + tl.cumsum(count, 0, reverse=True)
    weighed = mass_above + tl.cumsum(mass, 0, reverse=True)
    reached = weighed if MASS else counted.to(tl.float64)
    digit = tl.max(tl.where((reached >= aim) & (count > 0), c, -1), 0)
    candidates = tl.sum(tl.where(c == digit, count, 0), 0)
    count_above += tl.sum(tl.where(c > digit, count, 0), 0)
    mass_above = tl.where(digit == DIGITS - 1, mass_above, tl.sum(tl.where(c == digit + 1, weighed, 0.0), 0))
    return digit, candidates, count_above, mass_above
