# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""The least weights that pass top_k and top_p, found without sorting.

A weight lies between 0 and 1, so 30 bits tell it. Every block of a row counts and sums up its weights by their first
five bits; that serves both searches. Which first bits the threshold has then follows from the tallies of the whole
row, and only weights with the same ones remain in question. Where those are many, they are tallied by their next
five bits too. The rest are gathered side by side, in the order of their tokens, and one program halves the range
between the least and the largest of them until both are the same.

Sums are taken in fp64 and in an order that the row's own weights decide. A weight of 0 is never in question: it adds
nothing, and where fewer tokens than top_k have any weight, all of them pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.launch import Constant, launch

if TYPE_CHECKING:
    from llama4_local.ops.filters import Filters

COLDEST = tl.constexpr(1e-6)  # below it a draw is the likeliest token anyway
DIGITS = tl.constexpr(32)
FIRST = tl.constexpr(25)  # bits below the first digit
SECOND = tl.constexpr(20)  # bits below the second
ABOVE_ONE = tl.constexpr(1 << 30)  # more than the bits of any weight; those of a NaN are more still, or negative
_WARPS = 8
_FEW = 2  # blocks of weights that one program may settle alone, without a second digit


@triton.jit
def weights(logits, tops, temperature, row, token, vocab, blocks, BLOCKS: tl.constexpr):
    """Return exp((logit - largest) / temperature) of tokens: the likeliest weighs 1."""
    b = tl.arange(0, BLOCKS)
    best = tl.max(tl.load(tops + row * blocks + b, mask=b < blocks, other=float("-inf")), 0)
    value = tl.load(logits + row.to(tl.int64) * vocab + token, mask=token < vocab, other=float("-inf"))
    return tl.exp((value - best) / tl.maximum(tl.load(temperature + row), COLDEST))


@triton.jit
def _tally_kernel(
    logits,
    tops,
    temperature,  # [rows], fp32
    top_k,  # [rows], int64; 0 for all
    top_p,  # [rows], fp64
    counts,  # [rows, blocks, DIGITS], int32: weights of each first digit
    masses,  # [rows, blocks, DIGITS], fp64: their sums
    sums,  # [rows, blocks], fp64: of all weights
    vocab,
    blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0)
    block = tl.program_id(1)
    every = tl.load(top_k + row) == 0
    share = tl.load(top_p + row)
    if every & (share >= 1.0):
        return
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(logits, tops, temperature, row, token, vocab, blocks, BLOCKS)
    tl.store(sums + row * blocks + block, tl.sum(tl.where(token < vocab, weight.to(tl.float64), 0.0), 0))
    # All weights below (1 - top_p) / vocab together are less than what top_p may leave out.
    spare = ((1.0 - share).to(tl.float32) / vocab).to(tl.int32, bitcast=True) >> FIRST
    bits = weight.to(tl.int32, bitcast=True)
    digit = bits >> FIRST
    counted = (bits > 0) & (bits < ABOVE_ONE) & (digit >= tl.where(every, spare, 0)) & (token < vocab)
    _tally(weight, tl.where(counted, digit, -1), counts, masses, row * blocks + block)


@triton.jit
def _tally(weight, digit, counts, masses, place):
    """Count and sum up weights for each of their digits, -1 for none, and store both."""
    c = tl.arange(0, DIGITS)
    count = tl.zeros((DIGITS,), tl.int32)
    mass = tl.zeros((DIGITS,), tl.float64)
    amount = weight.to(tl.float64)
    for one in range(tl.min(tl.where(digit < 0, DIGITS, digit), 0), tl.max(digit, 0) + 1):
        hit = digit == one
        count = tl.where(c == one, tl.sum(hit.to(tl.int32), 0), count)
        mass = tl.where(c == one, tl.sum(tl.where(hit, amount, 0.0), 0), mass)
    tl.store(counts + place * DIGITS + c, count)
    tl.store(masses + place * DIGITS + c, mass)


@triton.jit
def _aim(top_k, wanted, row, MASS: tl.constexpr):
    """Return the mass or the count that must lie at or above a row's threshold; infinite where none is looked for."""
    if MASS:
        aim = tl.load(wanted + row)
    else:
        limit = tl.load(top_k + row)
        aim = tl.where(limit == 0, float("inf"), limit.to(tl.float64))
    return aim


@triton.jit
def _pick(counts, masses, row, blocks, aim, count_above, mass_above, MASS: tl.constexpr, BLOCKS: tl.constexpr):
    """Return the largest digit with which the aim is reached, -1 for none; how many have it; count, mass above it."""
    b = tl.arange(0, BLOCKS)[:, None]
    c = tl.arange(0, DIGITS)
    place = (row * blocks + b) * DIGITS + c[None, :]
    count = tl.sum(tl.load(counts + place, mask=b < blocks, other=0), 0)
    mass = tl.sum(tl.load(masses + place, mask=b < blocks, other=0.0), 0)
    counted = count_above + tl.cumsum(count, 0, reverse=True)
    weighed = mass_above + tl.cumsum(mass, 0, reverse=True)
    reached = weighed if MASS else counted.to(tl.float64)
    digit = tl.max(tl.where((reached >= aim) & (count > 0), c, -1), 0)
    there = tl.sum(tl.where(c == digit, count, 0), 0)
    count_above += tl.sum(tl.where(c > digit, count, 0), 0)
    mass_above = tl.where(digit == DIGITS - 1, mass_above, tl.sum(tl.where(c == digit + 1, weighed, 0.0), 0))
    return digit, there, count_above, mass_above


@triton.jit
def _refine_kernel(
    logits,
    tops,
    temperature,
    top_k,
    wanted,  # [rows], fp64
    counts,
    masses,
    fine_counts,  # as `counts`, of the second digit of weights whose first is the threshold's
    fine_masses,
    vocab,
    blocks,
    MASS: tl.constexpr,
    FEW: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0)
    block = tl.program_id(1)
    aim = _aim(top_k, wanted, row, MASS)
    if aim == float("inf"):
        return
    first, there, _, _ = _pick(counts, masses, row, blocks, aim, 0, 0.0, MASS, BLOCKS)
    if there <= FEW:
        return
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(logits, tops, temperature, row, token, vocab, blocks, BLOCKS)
    bits = weight.to(tl.int32, bitcast=True)
    counted = (bits > 0) & (bits >> FIRST == first) & (token < vocab)
    digit = tl.where(counted, (bits >> SECOND) & (DIGITS - 1), -1)
    _tally(weight, digit, fine_counts, fine_masses, row * blocks + block)


@triton.jit
def _narrow(
    counts,
    masses,
    fine_counts,
    fine_masses,
    row,
    blocks,
    aim,
    MASS: tl.constexpr,
    FEW: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Return what the tallies tell of a threshold.

    That is: its bits as far as they are known, how many are not, the last known digit, how many weights begin with
    these bits, and the count and the mass of those above.
    """
    digit, there, count, mass = _pick(counts, masses, row, blocks, aim, 0, 0.0, MASS, BLOCKS)
    low = tl.maximum(digit, 0) << FIRST
    open_bits = FIRST
    if there > FEW:
        digit, there, count, mass = _pick(fine_counts, fine_masses, row, blocks, aim, count, mass, MASS, BLOCKS)
        low += tl.maximum(digit, 0) << SECOND
        open_bits = SECOND
    return low, open_bits, digit, there, count, mass


@triton.jit
def _gather_kernel(
    logits,
    tops,
    temperature,
    top_k,
    wanted,
    counts,
    masses,
    fine_counts,
    fine_masses,
    rest,  # [rows, vocab], fp32, written from the left: the weights in question
    vocab,
    blocks,
    MASS: tl.constexpr,
    FEW: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0)
    block = tl.program_id(1)
    aim = _aim(top_k, wanted, row, MASS)
    if aim == float("inf"):
        return
    low, open_bits, digit, there, _, _ = _narrow(
        counts, masses, fine_counts, fine_masses, row, blocks, aim, MASS, FEW, BLOCKS
    )
    if there == 0:
        return
    b = tl.arange(0, BLOCKS)
    place = (row * blocks + b) * DIGITS + digit
    if open_bits == FIRST:
        found = tl.load(counts + place, mask=b < blocks, other=0)
    else:
        found = tl.load(fine_counts + place, mask=b < blocks, other=0)
    if tl.sum(tl.where(b == block, found, 0), 0) == 0:
        return
    before = tl.sum(tl.where(b < block, found, 0), 0)
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(logits, tops, temperature, row, token, vocab, blocks, BLOCKS)
    bits = weight.to(tl.int32, bitcast=True)
    inside = (bits > 0) & (bits >> open_bits == low >> open_bits) & (token < vocab)
    left = tl.cumsum(inside.to(tl.int32), 0) - 1
    tl.store(rest + row.to(tl.int64) * vocab + before + left, weight, mask=inside)


@triton.jit
def _extremes(rest, there, SPAN: tl.constexpr):
    """Return the bits of the least and of the largest of the weights in question."""
    least = tl.full((SPAN,), ABOVE_ONE, tl.int32)
    largest = tl.zeros((SPAN,), tl.int32)
    for start in range(0, there, SPAN):
        i = start + tl.arange(0, SPAN)
        bits = tl.load(rest + i, mask=i < there, other=0.0).to(tl.int32, bitcast=True)
        least = tl.minimum(least, tl.where(i < there, bits, ABOVE_ONE))
        largest = tl.maximum(largest, bits)
    return tl.min(least, 0), tl.max(largest, 0)


@triton.jit
def _split(rest, there, bound, MASS: tl.constexpr, SPAN: tl.constexpr):
    """Return the mass, or count, of weights in question from `bound` on, the least bits of these, the largest below."""
    total = tl.zeros((SPAN,), tl.float64)
    least = tl.full((SPAN,), ABOVE_ONE, tl.int32)
    largest = tl.zeros((SPAN,), tl.int32)
    for start in range(0, there, SPAN):
        i = start + tl.arange(0, SPAN)
        weight = tl.load(rest + i, mask=i < there, other=0.0)
        bits = weight.to(tl.int32, bitcast=True)
        amount = weight.to(tl.float64) if MASS else tl.full((SPAN,), 1.0, tl.float64)
        total += tl.where(bits >= bound, amount, 0.0)
        least = tl.minimum(least, tl.where(bits >= bound, bits, ABOVE_ONE))
        largest = tl.maximum(largest, tl.where(bits >= bound, 0, bits))
    return tl.sum(total, 0), tl.min(least, 0), tl.max(largest, 0)


@triton.jit
def _halve(rest, there, aim, above, MASS: tl.constexpr, SPAN: tl.constexpr):
    """Return the bits of the largest weight in question with which the aim is reached, the least one at any rate."""
    least, largest = _extremes(rest, there, SPAN)
    while least < largest:
        # Both are bits of weights, so that there are weights on either side of what lies between.
        middle = least + (largest - least + 1) // 2
        amount, from_middle, below = _split(rest, there, middle, MASS, SPAN)
        if above + amount >= aim:
            least = from_middle
        else:
            largest = below
    return least


@triton.jit
def _settle_kernel(
    rest,
    counts,
    masses,
    fine_counts,
    fine_masses,
    sums,
    top_k,
    top_p,
    wanted,  # without MASS written: top_p of the mass that top_k leaves; infinite where top_p rules nothing out
    least,  # [rows], int32, written: bits of the threshold; 0 where none is looked for
    vocab,
    blocks,
    MASS: tl.constexpr,
    FEW: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0)
    aim = _aim(top_k, wanted, row, MASS)
    rest += row.to(tl.int64) * vocab
    edge = tl.full((), 0, tl.int32)
    left = tl.full((), 0.0, tl.float64)
    if aim == float("inf"):
        if not MASS:
            b = tl.arange(0, BLOCKS)
            left = tl.sum(tl.load(sums + row * blocks + b, mask=b < blocks, other=0.0), 0)
    else:
        edge, _, _, there, count, mass = _narrow(
            counts, masses, fine_counts, fine_masses, row, blocks, aim, MASS, FEW, BLOCKS
        )
        if there > 0:
            edge = _halve(rest, there, aim, mass if MASS else count.to(tl.float64), MASS, SPAN)
        if not MASS:
            # Of those as likely as the last one, only as many count as top_k asks for.
            more, _, _ = _split(rest, there, edge + 1, False, SPAN)
            heavier, _, _ = _split(rest, there, edge + 1, True, SPAN)
            last = tl.cast(edge, tl.float32, bitcast=True).to(tl.float64)
            left = mass + heavier + (aim - count - more) * last
    tl.store(least + row, edge)
    if not MASS:
        share = tl.load(top_p + row)
        tl.store(wanted + row, tl.where(share < 1.0, share * left, float("inf")))


def thresholds(
    source: dict[str, Tensor], filters: Filters, sizes: dict[str, int], shape: dict[str, Constant]
) -> dict[str, Tensor]:
    """Find the bits of the least weights that pass top_k, and top_p after it.

    Args:
        source: `logits` [rows, vocab], fp32; `tops` [rows, blocks], fp32, the largest of each block;
            `temperature` [rows], fp32.
        filters: What to look for.
        sizes: `vocab` and its `blocks`.
        shape: `BLOCK`, the logits of a program, and `BLOCKS`, a power of two.

    Returns:
        `k_least` and `p_least`, [rows], int32; the latter means nothing where top_p is 1.
    """
    rows, vocab, blocks, block = filters.top_k.shape[0], sizes["vocab"], sizes["blocks"], int(shape["BLOCK"] or 0)
    device = filters.top_p.device

    def fresh(dtype: torch.dtype, *size: int) -> Tensor:
        return torch.empty((rows, *size), dtype=dtype, device=device)

    coarse = {"counts": fresh(torch.int32, blocks, DIGITS.value), "masses": fresh(torch.float64, blocks, DIGITS.value)}
    fine = {f"fine_{name}": torch.empty_like(tallies) for name, tallies in coarse.items()}
    rules, sums = {"top_k": filters.top_k, "top_p": filters.top_p}, {"sums": fresh(torch.float64, blocks)}
    wanted, rest = {"wanted": fresh(torch.float64)}, {"rest": fresh(torch.float32, vocab)}
    launch(_tally_kernel, (rows, blocks), source | rules | coarse | sums | sizes, shape, warps=_WARPS)

    def search(least: Tensor, *, mass: bool) -> Tensor:
        tallies = {"top_k": filters.top_k} | wanted | coarse | fine | sizes
        limits: dict[str, Constant] = {"MASS": mass, "FEW": _FEW * block, "BLOCKS": shape["BLOCKS"]}
        launch(_refine_kernel, (rows, blocks), source | tallies, shape | limits, warps=_WARPS)
        launch(_gather_kernel, (rows, blocks), source | tallies | rest, shape | limits, warps=_WARPS)
        given = tallies | rest | sums | {"top_p": filters.top_p, "least": least}
        launch(_settle_kernel, (rows,), given, limits | {"SPAN": block // 2}, warps=_WARPS)
        return least

    return {"k_least": search(fresh(torch.int32), mass=False), "p_least": search(fresh(torch.int32), mass=True)}
