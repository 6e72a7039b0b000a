"""Samples tokens from logits, as pure functions of tensors: the oracle, and the CPU path.

No result depends on the order of equal values in a sort, nor on the other rows of the batch: filters are thresholds,
and each row draws with its own counter-based random number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from llama4_local.ops.filters import Filters
    from llama4_local.ops.penalties import Penalties

_NUCLEUS = 1024  # the top_p tokens are nearly always among so many top tokens
_COLDEST = 1e-6  # at lower temperatures a draw is the argmax, and fp32 would divide by zero


def unusable(logits: Tensor) -> Tensor:
    """Return the rows without a valid token: a NaN, +inf, or every token masked out.

    Args:
        logits: [n, vocab].

    Returns:
        [n], bool.
    """
    return ~torch.isfinite(logits.amax(dim=-1))


def penalize(
    logits: Tensor, seen: Tensor, counts: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
) -> Tensor:
    """Return the logits minus the penalties of tokens that occurred before.

    The repetition penalty divides positive logits and multiplies negative ones (CTRL, Keskar et al. 2019); presence
    and frequency penalties are subtracted, once per token and once per occurrence (OpenAI's API reference).

    Args:
        logits: [n, vocab], fp32.
        seen: [n, vocab], bool: the token occurs in the prompt or the answer.
        counts: [n, vocab], int: its occurrences in the answer.
        repetition: [n], fp32, above 0; 1 for none.
        presence: [n], fp32.
        frequency: [n], fp32.
    """
    factor = repetition[:, None]
    repeated = torch.where(logits > 0, logits / factor, logits * factor)
    logits = torch.where(seen, repeated, logits)
    return logits - frequency[:, None] * counts - presence[:, None] * (counts > 0)


def adjust(logits: Tensor, penalties: Penalties | None, allowed: Tensor | None) -> None:
    """Write penalties and token masks into logits; see `Ops.adjust`."""
    if penalties is not None:
        logits.copy_(penalize(logits, *penalties))
    if allowed is not None:
        bits = allowed.view(torch.uint8)
        if bits.device.type == "cpu":
            excluded = torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, bitorder="little")) == 0
        else:
            excluded = unpacked(bits) == 0
        logits.masked_fill_(excluded[:, : logits.shape[1]], -torch.inf)


def unpacked(bits: Tensor) -> Tensor:
    """Return a byte for each bit, lowest first, on the device of the bits, which are sent eight to a byte.

    Args:
        bits: [rows, bytes], uint8.
    """
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, :, None] >> places) & 1).flatten(1)


def argmax(logits: Tensor) -> Tensor:
    """Return the top-1 token of each row: logits [n, vocab] → [n], int64; any token of an unusable row."""
    return logits.argmax(dim=-1)


def sample(logits: Tensor, filters: Filters, seeds: Tensor, steps: Tensor, *, one_by_one: bool = False) -> Tensor:
    """Return the next token of each row, the argmax at temperature 0; see `Ops.sample`.

    With `one_by_one`, rows are drawn one after the other: a library may round otherwise over several.
    """
    bad = unusable(logits)
    tokens = argmax(logits)
    rows = (filters.temperature > 0).nonzero().squeeze(-1)
    if len(rows):
        usable = torch.where(bad[rows, None], 0, logits[rows])
        numbers = uniforms(seeds[rows], steps[rows])
        for own in torch.arange(len(rows), device=rows.device).split(1 if one_by_one else len(rows)):
            tokens[rows[own]] = draw(usable[own], filters.rows(rows[own]), numbers[own])
    return torch.where(bad, -1, tokens)


def draw(logits: Tensor, filters: Filters, uniforms: Tensor) -> Tensor:
    """Draw one token per row, after temperature, top_k, top_p and min_p, in this order.

    Tokens with exactly the probability of the last one that passes a filter pass too.

    Args:
        logits: [n, vocab], fp32, no row `unusable`.
        filters: The rows' filters.
        uniforms: [n], fp64, in [0, 1).

    Returns:
        [n], int64.
    """
    weights = draw_weights(logits, logits.amax(dim=-1), filters)
    least = filters.min_p.to(weights.dtype)
    if filters.ranked:
        least = torch.maximum(least, _least_ranked(weights, filters))
    weights = torch.where(weights >= least[:, None], weights, 0)
    mass = weights.cumsum(dim=-1, dtype=torch.float64)
    total = mass[:, -1:]
    # A target below the total stops at a token with weight: the mass grows nowhere else.
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, target, right=True).squeeze(-1)


def draw_weights(logits: Tensor, best: Tensor, filters: Filters) -> Tensor:
    """Return the weights that tokens are drawn by, 1 for the argmax: logits [n, any], their maxima [n] → [n, any]."""
    return ((logits - best[:, None]) / filters.temperature[:, None].clamp(min=_COLDEST)).exp()


def _least_ranked(weights: Tensor, filters: Filters) -> Tensor:
    """Return the smallest weight that passes top_k and top_p: weights [n, vocab] → [n]."""
    vocab = weights.shape[-1]
    limit = top_k_limit(filters, vocab)
    everything = weights.sum(dim=-1, dtype=torch.float64)
    least, certain = _least_among(weights, min(_NUCLEUS, vocab), limit, everything, filters.top_p)
    if not bool(certain.all()):
        least, _ = _least_among(weights, vocab, limit, everything, filters.top_p)
    return least


def _least_among(weights: Tensor, size: int, limit: Tensor, everything: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest weight that passes among the top `size` tokens, and the rows where these suffice."""
    vocab = weights.shape[-1]
    least, mass = least_passing(weights.topk(size, dim=-1).values, vocab, limit, everything, top_p)
    total = torch.where(limit < vocab, mass, everything)
    nucleus = (limit == vocab) & (top_p < 1) & (mass >= top_p * total)
    unfiltered = (limit == vocab) & (top_p >= 1)
    return least, (limit <= size) | nucleus | unfiltered


def top_k_limit(filters: Filters, vocab: int) -> Tensor:
    """Return the number of tokens that top_k leaves of each row, [n]."""
    return torch.where(filters.top_k > 0, filters.top_k, vocab).clamp(max=vocab)


def least_passing(
    ranked: Tensor, vocab: int, limit: Tensor, everything: Tensor, top_p: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the smallest weight that passes top_k and top_p, as far as the largest weights tell.

    Args:
        ranked: [n, size], the largest weights in falling order.
        vocab: Tokens in all.
        limit: See `top_k_limit`.
        everything: [n], fp64: the sum of all weights.
        top_p: [n], fp64.

    Returns:
        That weight, [n], 0 where nothing is filtered; and the sum of those within the limit, [n], fp64.
    """
    within = torch.arange(ranked.shape[-1], device=ranked.device) < limit[:, None]
    mass = torch.where(within, ranked, 0).cumsum(dim=-1, dtype=torch.float64)
    total = torch.where(limit < vocab, mass[:, -1], everything)
    before = mass - ranked
    kept = within & ((before < (top_p * total)[:, None]) | (top_p >= 1)[:, None])
    least = torch.where(kept, ranked, torch.inf).amin(dim=-1)
    unfiltered = (limit == vocab) & (top_p >= 1)
    return torch.where(unfiltered, 0, least), mass[:, -1]


def log_probabilities(logits: Tensor, sampled: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log-probabilities of sampled tokens at temperature 1, and the `top` tokens of each row.

    Args:
        logits: [n, vocab], before penalties and filters.
        sampled: [n], int64.
        top: Number of alternatives.

    Returns:
        Log-probabilities [n] of the sampled, token ids [n, top] and log-probabilities [n, top] of the top tokens.
    """
    scores = logits.float().log_softmax(dim=-1)
    ranked = scores.topk(min(top, scores.shape[-1]), dim=-1)
    return scores.gather(-1, sampled[:, None]).squeeze(-1), ranked.indices, ranked.values


_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox(seeds: Tensor, counters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four random 32-bit words per row from its seed and its counter alone (Philox 4×32-10).

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.

    Args:
        seeds: [n], int64: the key, low word first.
        counters: [n, 4], int64 holding 32-bit words.
    """
    a, b, c, d = counters.unbind(-1)
    low, high = seeds & _LOW, (seeds >> 32) & _LOW
    for _ in range(10):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # wraps at 64 bits, as the algorithm requires
        a, b = ((second >> 32) & _LOW) ^ b ^ low, second & _LOW
        c, d = ((first >> 32) & _LOW) ^ d ^ high, first & _LOW
        low, high = (low + _KEY_STEPS[0]) & _LOW, (high + _KEY_STEPS[1]) & _LOW
    return a, b, c, d


def uniforms(seeds: Tensor, steps: Tensor) -> Tensor:
    """Return one number in [0, 1) per row that depends on its seed and its step only.

    Args:
        seeds: [n], int64.
        steps: [n], int64: tokens that the row has drawn before.

    Returns:
        [n], fp64 with 53 random bits.
    """
    zeros = torch.zeros_like(steps)
    a, b, _, _ = philox(seeds, torch.stack([steps & _LOW, (steps >> 32) & _LOW, zeros, zeros], dim=-1))
    return ((a >> 5) * 67_108_864.0 + (b >> 6)).to(torch.float64) / 9_007_199_254_740_992.0
