# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Which token goes to which expert, without the host ever learning it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, power_above, require

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Choice:
    """The expert of each token.

    Args:
        experts: [tokens], int32.
        scores: [tokens], fp32: sigmoid of the largest logit.
        counts: [blocks of tokens, experts], int32: how many tokens of a block chose each.
    """

    experts: Tensor
    scores: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """Slots of the experts, one group after the other: routed ones in token order, then the shared expert's.

    Args:
        order: [2·tokens], int32: the token of each slot.
        scores: [2·tokens], fp32: what its input is multiplied by; 1 for the shared expert.
        offsets: [experts + 2], int32: first slot of each group, the shared one included, then 2·tokens.
    """

    order: Tensor
    scores: Tensor
    offsets: Tensor

    def most_tiles(self, tokens: int) -> int:
        """Return how many tiles of so many tokens the groups have at most, however tokens are routed."""
        count = self.order.shape[0] // 2
        experts = self.offsets.shape[0] - 2
        return ceil_div(count, tokens) + min(experts, count) + ceil_div(count, tokens)


@triton.jit
def _likeliest(logits, tokens, live, count, PARTS: tl.constexpr, EXPERTS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the expert and the score of each token; logits are [PARTS, count, EXPERTS], summed in their order."""
    e = tl.arange(0, WIDTH)
    there = live[:, None] & (e < EXPERTS)[None, :]
    place = logits + tokens[:, None] * EXPERTS + e[None, :]
    values = tl.load(place, mask=there, other=float("-inf"))
    for part in tl.static_range(1, PARTS):
        values += tl.load(place + part * count * EXPERTS, mask=there, other=0.0)
    # Logits that are no numbers must not lead out of the tensors: their replies end with an error later.
    chosen = tl.minimum(tl.argmax(values, 1, tie_break_left=True), EXPERTS - 1)
    return chosen, 1.0 / (1.0 + tl.exp(-tl.max(values, 1)))


@triton.jit
def _store_slots(order, scores, tokens, live, count, own, firsts, score, BLOCK: tl.constexpr):
    """Give each token of a block its slot behind its expert's first one, and its slot of the shared expert.

    own: [BLOCK, WIDTH], which expert each has; firsts: [WIDTH], the first slot that this block has of each.
    """
    earlier = tl.cumsum(own.to(tl.int32), 0) - 1
    places = tl.sum(tl.where(own, earlier + firsts[None, :], 0), 1)
    tl.store(order + places, tokens, mask=live)
    tl.store(scores + places, score, mask=live)
    tl.store(order + count + tokens, tokens, mask=live)
    tl.store(scores + count + tokens, tl.full((BLOCK,), 1.0, tl.float32), mask=live)


@triton.jit
def _store_offsets(offsets, ends, e, count, EXPERTS: tl.constexpr):
    tl.store(offsets, 0)
    tl.store(offsets + 1 + e, ends, mask=e < EXPERTS)
    tl.store(offsets + EXPERTS + 1, 2 * count)


@triton.jit(do_not_specialize=["count"])
def _route_few_kernel(
    logits,  # [PARTS, count, EXPERTS], fp32
    order,  # [2·count]
    scores,  # [2·count]
    offsets,  # [EXPERTS + 2]
    count,
    PARTS: tl.constexpr,
    EXPERTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tokens = tl.arange(0, BLOCK)
    live = tokens < count
    chosen, score = _likeliest(logits, tokens, live, count, PARTS, EXPERTS, WIDTH)
    e = tl.arange(0, WIDTH)
    own = (chosen[:, None] == e[None, :]) & live[:, None]
    total = tl.sum(own.to(tl.int32), 0)
    ends = tl.cumsum(total, 0)
    _store_offsets(offsets, ends, e, count, EXPERTS)
    _store_slots(order, scores, tokens, live, count, own, ends - total, score, BLOCK)


@triton.jit(do_not_specialize=["count"])
def _choose_kernel(
    logits,  # [PARTS, count, EXPERTS], fp32
    experts,  # [count]
    scores,  # [count]
    counts,  # [blocks, EXPERTS]
    count,
    PARTS: tl.constexpr,
    EXPERTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    live = tokens < count
    e = tl.arange(0, WIDTH)
    chosen, score = _likeliest(logits, tokens, live, count, PARTS, EXPERTS, WIDTH)
    tl.store(experts + tokens, chosen, mask=live)
    tl.store(scores + tokens, score, mask=live)
    hits = (chosen[:, None] == e[None, :]) & live[:, None]
    tl.store(counts + block * EXPERTS + e, tl.sum(hits.to(tl.int32), 0), mask=e < EXPERTS)


@triton.jit(do_not_specialize=["count", "blocks"])
def _order_kernel(
    experts,  # [count]
    token_scores,  # [count]
    counts,  # [blocks, EXPERTS]
    order,  # [2·count]
    scores,  # [2·count]
    offsets,  # [EXPERTS + 2]
    count,
    blocks,
    EXPERTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    e = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.int32)
    before = tl.zeros((WIDTH,), tl.int32)
    for other in range(blocks):
        hits = tl.load(counts + other * EXPERTS + e, mask=e < EXPERTS, other=0)
        total += hits
        before += tl.where(other < block, hits, 0)
    ends = tl.cumsum(total, 0)
    if block == 0:
        _store_offsets(offsets, ends, e, count, EXPERTS)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    live = tokens < count
    chosen = tl.load(experts + tokens, mask=live, other=0)
    own = (chosen[:, None] == e[None, :]) & live[:, None]
    score = tl.load(token_scores + tokens, mask=live, other=0.0)
    _store_slots(order, scores, tokens, live, count, own, ends - total + before, score, BLOCK)


def routed(logits: Tensor) -> Routing:
    """Choose experts as `choose` does and sort tokens as `route` does, in one launch where they are few."""
    parts, count, experts = _checked(logits)
    if count > _BLOCK:
        return route(choose(logits))
    routing = _empty_routing(count, experts, logits.device)
    launch(
        _route_few_kernel,
        (1,),
        {"logits": logits, "order": routing.order, "scores": routing.scores, "offsets": routing.offsets}
        | {"count": count},
        {"PARTS": parts, "EXPERTS": experts, "WIDTH": power_above(experts), "BLOCK": _BLOCK},
    )
    return routing


def choose(logits: Tensor) -> Choice:
    """Choose the likeliest expert of each token, the first among equals.

    Args:
        logits: [tokens, experts], fp32; or parts of them, [parts, tokens, experts], summed in their order.
    """
    parts, count, experts = _checked(logits)
    blocks = ceil_div(count, _BLOCK)
    chosen = torch.empty(count, dtype=torch.int32, device=logits.device)
    scores = torch.empty(count, dtype=torch.float32, device=logits.device)
    counts = torch.empty((blocks, experts), dtype=torch.int32, device=logits.device)
    launch(
        _choose_kernel,
        (blocks,),
        {"logits": logits, "experts": chosen, "scores": scores, "counts": counts, "count": count},
        {"PARTS": parts, "EXPERTS": experts, "WIDTH": power_above(experts), "BLOCK": _BLOCK},
    )
    return Choice(chosen, scores, counts)


def route(choice: Choice) -> Routing:
    """Sort tokens by expert, keeping their order within each."""
    blocks, experts = choice.counts.shape
    (count,) = choice.experts.shape
    routing = _empty_routing(count, experts, choice.experts.device)
    launch(
        _order_kernel,
        (blocks,),
        {"experts": choice.experts, "token_scores": choice.scores, "counts": choice.counts}
        | {
            "order": routing.order,
            "scores": routing.scores,
            "offsets": routing.offsets,
            "count": count,
            "blocks": blocks,
        },
        {"EXPERTS": experts, "WIDTH": power_above(experts), "BLOCK": _BLOCK},
    )
    return routing


def _checked(logits: Tensor) -> tuple[int, int, int]:
    """Return how many parts, tokens and experts router logits have."""
    require(logits.dtype == torch.float32, f"router logits must be fp32, got {logits.dtype}")
    contiguous(logits=logits)
    count, experts = logits.shape[-2:]
    return (logits.shape[0] if logits.dim() == 3 else 1), count, experts


def _empty_routing(count: int, experts: int, device: torch.device) -> Routing:
    order = torch.empty(2 * count, dtype=torch.int32, device=device)
    scores = torch.empty(2 * count, dtype=torch.float32, device=device)
    return Routing(order, scores, torch.empty(experts + 2, dtype=torch.int32, device=device))
