# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""One token for each row of logits, chosen on the device so that it can feed the next step.

A row of logits is cut into blocks that work side by side. The least weights that pass top_k and top_p are found in
`thresholds.py`. Sums are taken in fp64 and in an order that the row alone decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.launch import Constant, ceil_div, contiguous, launch, power_above, require
from llama4_local.ops.kernels.thresholds import thresholds, weights

if TYPE_CHECKING:
    from llama4_local.ops.filters import Filters

BLOCK = 4096  # logits of a program


@triton.jit
def _adjust_kernel(
    logits,  # [rows, vocab], fp32
    seen,  # [rows, vocab], bool, or None: no penalties
    counts,  # [rows, vocab], int32
    repetition,  # [rows], fp32
    presence,  # [rows], fp32
    frequency,  # [rows], fp32
    allowed,  # [rows, words], int32: a bit for each token; or None: all
    out,  # [rows, vocab], fp32
    vocab,
    words,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = token < vocab
    place = row * vocab + token
    value = tl.load(logits + place, mask=there, other=0.0)
    if seen is not None:
        factor = tl.load(repetition + row)
        repeated = tl.where(value > 0, value / factor, value * factor)
        value = tl.where(tl.load(seen + place, mask=there, other=0) != 0, repeated, value)
        count = tl.load(counts + place, mask=there, other=0)
        value -= tl.load(frequency + row) * count.to(tl.float32)
        value -= tl.load(presence + row) * (count > 0).to(tl.float32)
    if allowed is not None:
        word = tl.load(allowed + row * words + token // 32, mask=there, other=0)
        value = tl.where((word >> (token % 32)) & 1 == 1, value, float("-inf"))
    tl.store(out + place, value, mask=there)


@triton.jit
def _peaks_kernel(
    logits,  # [rows, vocab], fp32
    tops,  # [rows, blocks], fp32: largest logit of each block; +inf where one is no number
    places,  # [rows, blocks], int32: the first such token
    vocab,
    blocks,
    BLOCK: tl.constexpr,
):
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
    logits,
    tops,
    temperature,
    min_p,  # [rows], fp32
    k_least,  # [rows], int32, or None
    p_least,  # [rows], int32, or None
    top_p,  # [rows], fp64
    masses,  # [rows, blocks], fp64
    vocab,
    blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0)
    block = tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(logits, tops, temperature, row, token, vocab, blocks, BLOCKS)
    least = _least(min_p, k_least, p_least, top_p, row)
    kept = (weight >= least) & (token < vocab)
    tl.store(masses + row * blocks + block, tl.sum(tl.where(kept, weight.to(tl.float64), 0.0), 0))


@triton.jit
def _least(min_p, k_least, p_least, top_p, row):
    """Return the smallest weight that passes all of a row's filters."""
    least = tl.load(min_p + row)
    if k_least is not None:
        passes_k = tl.load(k_least + row).to(tl.float32, bitcast=True)
        passes_p = tl.load(p_least + row).to(tl.float32, bitcast=True)
        least = tl.maximum(least, tl.where(tl.load(top_p + row) < 1.0, passes_p, passes_k))
    return least


@triton.jit
def _draw_kernel(
    logits,
    tops,
    places,  # [rows, blocks], int32
    temperature,
    min_p,
    k_least,
    p_least,
    top_p,
    masses,  # [rows, blocks], fp64
    uniforms,  # [rows], fp64
    out,  # [rows], int64
    vocab,
    blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0)
    b = tl.arange(0, BLOCKS)
    block_masses = tl.load(masses + row * blocks + b, mask=b < blocks, other=0.0)
    through = tl.cumsum(block_masses, 0)
    target = tl.load(uniforms + row) * tl.sum(block_masses, 0)
    # Where rounding leaves no block or token beyond the target, the last one with weight is meant.
    last = tl.max(tl.where(block_masses > 0, b, 0), 0)
    block = tl.minimum(tl.min(tl.where((through > target) & (block_masses > 0), b, BLOCKS), 0), last)
    before = tl.sum(tl.where(b < block, block_masses, 0.0), 0)
    token = block * BLOCK + tl.arange(0, BLOCK)
    weight = weights(logits, tops, temperature, row, token, vocab, blocks, BLOCKS)
    kept = (weight >= _least(min_p, k_least, p_least, top_p, row)) & (token < vocab)
    mass = before + tl.cumsum(tl.where(kept, weight.to(tl.float64), 0.0), 0)
    final = tl.max(tl.where(kept, token, 0), 0)
    drawn = tl.minimum(tl.min(tl.where(kept & (mass > target), token, vocab), 0), final)
    # Temperature 0 asks for the likeliest token, the first among equals.
    best = tl.load(tops + row * blocks + b, mask=b < blocks, other=float("-inf"))
    peak = tl.load(places + row * blocks + b, mask=b < blocks, other=0)
    greedy = tl.min(tl.where((best == tl.max(best, 0)) & (b < blocks), peak, vocab - 1), 0)
    tl.store(out + row, tl.where(tl.load(temperature + row) > 0, drawn, greedy).to(tl.int64))


@triton.jit
def _uniforms_kernel(seeds, steps, out):
    row = tl.program_id(0)
    seed = tl.load(seeds + row)
    step = tl.load(steps + row)
    zero = (step & 0).to(tl.uint32)
    low, high = (step & 0xFFFFFFFF).to(tl.uint32), ((step >> 32) & 0xFFFFFFFF).to(tl.uint32)
    a, b, _, _ = tl.philox(seed, low, high, zero, zero)
    word = (a >> 5).to(tl.int64) * 67108864 + (b >> 6).to(tl.int64)
    tl.store(out + row, word.to(tl.float64) * (1.0 / 9007199254740992.0))


def adjust(
    logits: Tensor,
    seen: Tensor | None = None,
    counts: Tensor | None = None,
    repetition: Tensor | None = None,
    presence: Tensor | None = None,
    frequency: Tensor | None = None,
    allowed: Tensor | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Return the logits less penalties, and -inf where a grammar rules tokens out.

    Args:
        logits: [rows, vocab], fp32.
        seen: [rows, vocab], bool, see `reference.sampling.penalize`; None for no penalties at all.
        counts: [rows, vocab], int32.
        repetition: [rows], fp32.
        presence: [rows], fp32.
        frequency: [rows], fp32.
        allowed: [rows, ⌈vocab / 32⌉], int32: bit t % 32 of word t // 32 allows token t; None allows all.
        block: Logits of a program.
    """
    rows, vocab = logits.shape
    contiguous(logits=logits, seen=seen, counts=counts, allowed=allowed)
    words = ceil_div(vocab, 32)
    require(allowed is None or allowed.shape == (rows, words), f"a mask must be [{rows}, {words}]")
    out = torch.empty_like(logits)
    launch(
        _adjust_kernel,
        (rows, ceil_div(vocab, block)),
        {"logits": logits, "seen": seen, "counts": counts, "repetition": repetition, "presence": presence}
        | {"frequency": frequency, "allowed": allowed, "out": out, "vocab": vocab, "words": words},
        {"BLOCK": block},
    )
    return out


def choose(logits: Tensor, filters: Filters, seeds: Tensor, steps: Tensor) -> Tensor:
    """Return the next token of each row, -1 where there is none to choose; see `Ops.choose`."""
    tokens, tops = draw(logits, filters, uniforms(seeds, steps))
    return torch.where(torch.isfinite(tops.amax(-1)), tokens, -1)


def draw(logits: Tensor, filters: Filters, uniforms: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Draw one token for each row; see `reference.sampling.draw`. Nothing comes back to the host.

    Args:
        logits: [rows, vocab], fp32.
        filters: How to narrow the choice down; here a temperature of 0 takes the likeliest token.
        uniforms: [rows], fp64, in [0, 1).
        block: Logits of a program.

    Returns:
        Tokens [rows], int64; largest logits [rows, blocks of the vocabulary], whose largest is not finite
        where nothing can be chosen from a row, so that its token means nothing.
    """
    rows, vocab = logits.shape
    contiguous(logits=logits)
    blocks = ceil_div(vocab, block)
    tops = torch.empty((rows, blocks), dtype=torch.float32, device=logits.device)
    places = torch.empty((rows, blocks), dtype=torch.int32, device=logits.device)
    sizes = {"vocab": vocab, "blocks": blocks}
    source = {"logits": logits, "tops": tops, "temperature": filters.temperature}
    shape: dict[str, Constant] = {"BLOCK": block, "BLOCKS": power_above(blocks)}
    launch(_peaks_kernel, (rows, blocks), {"logits": logits, "tops": tops, "places": places} | sizes, {"BLOCK": block})
    least = thresholds(source, filters, sizes, shape) if filters.ranked else {"k_least": None, "p_least": None}
    masses = torch.empty((rows, blocks), dtype=torch.float64, device=logits.device)
    limits = least | {"min_p": filters.min_p, "top_p": filters.top_p}
    launch(_mass_kernel, (rows, blocks), source | sizes | limits | {"masses": masses}, shape)
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    launch(
        _draw_kernel,
        (rows,),
        source | sizes | limits | {"places": places, "masses": masses, "uniforms": uniforms, "out": out},
        shape,
        warps=8,
    )
    return out, tops


def uniforms(seeds: Tensor, steps: Tensor) -> Tensor:
    """Return one number in [0, 1) for each row from its seed and step; see `reference.sampling.uniforms`."""
    out = torch.empty(seeds.shape, dtype=torch.float64, device=seeds.device)
    launch(_uniforms_kernel, (seeds.shape[0],), {"seeds": seeds, "steps": steps, "out": out}, {}, warps=1)
    return out
