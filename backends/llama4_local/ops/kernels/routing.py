# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Top-1 routing and dispatch on the device: each token's expert, and tokens sorted by expert."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, power_above, require
from llama4_local.ops.kernels.overlap import release_next_kernel, wait_for_inputs

_BLOCK = 64


class Routing(NamedTuple):
    """The expert of each token.

    Args:
        experts: [tokens], int32.
        scores: [tokens], fp32: sigmoid of the largest logit.
        counts: [blocks of tokens, experts], int32: tokens of a block that are routed to each expert.
    """

    experts: Tensor
    scores: Tensor
    counts: Tensor


class Dispatch(NamedTuple):
    """Slots grouped by expert: the routed experts' in token order, then the shared expert's.

    Args:
        order: [2·tokens], int32: the token of each slot.
        scores: [2·tokens], fp32: the factor of its input; 1 for the shared expert.
        offsets: [experts + 2], int32: first slot of each group, the shared one included, then 2·tokens.
    """

    order: Tensor
    scores: Tensor
    offsets: Tensor

    @property
    def groups(self) -> int:
        """Routed experts and the shared one."""
        return self.offsets.shape[0] - 1

    def most_tiles(self, tokens: int) -> int:
        """Return the most tiles of so many tokens that any routing gives.

        Each routed group that has tokens may leave up to `tokens` - 1 places of its last tile empty.
        """
        slots = self.order.shape[0] // 2
        routed = (slots + min(self.groups - 1, slots) * (tokens - 1)) // tokens
        return routed + ceil_div(slots, tokens)


@triton.jit
def _top_1(logits, tokens, mask, count, PARTS: tl.constexpr, EXPERTS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the expert and the score of each token; logits are [PARTS, count, EXPERTS], summed in their order."""
    e = tl.arange(0, WIDTH)
    inside = mask[:, None] & (e < EXPERTS)[None, :]
    place = logits + tokens[:, None] * EXPERTS + e[None, :]
    values = tl.load(place, mask=inside, other=float("-inf"))
    for part in tl.static_range(1, PARTS):
        values += tl.load(place + part * count * EXPERTS, mask=inside, other=0.0)
    # A NaN must not index beyond the tensors; its request ends with an error after sampling.
    expert = tl.minimum(tl.argmax(values, 1, tie_break_left=True), EXPERTS - 1)
    return expert, 1.0 / (1.0 + tl.exp(-tl.max(values, 1)))


@triton.jit
def _store_slots(dispatch, tokens, mask, count, own, firsts, score, BLOCK: tl.constexpr):
    """Store each token of a block in its slot behind its expert's first one, and in its slot of the shared expert.

    own: [BLOCK, WIDTH], each token's expert as one-hot; firsts: [WIDTH], this block's first slot of each expert.
    """
    earlier = tl.cumsum(own.to(tl.int32), 0) - 1
    places = tl.sum(tl.where(own, earlier + firsts[None, :], 0), 1)
    tl.store(dispatch.order + places, tokens, mask=mask)
    tl.store(dispatch.scores + places, score, mask=mask)
    tl.store(dispatch.order + count + tokens, tokens, mask=mask)
    tl.store(dispatch.scores + count + tokens, tl.full((BLOCK,), 1.0, tl.float32), mask=mask)


@triton.jit
def _store_offsets(offsets, ends, e, count, EXPERTS: tl.constexpr):
    tl.store(offsets, 0)
    tl.store(offsets + 1 + e, ends, mask=e < EXPERTS)
    tl.store(offsets + EXPERTS + 1, 2 * count)


@triton.jit(do_not_specialize=["count"])
def _route_and_dispatch_kernel(
    logits,  # [PARTS, count, EXPERTS], fp32
    dispatch,  # `Dispatch`, written
    count,
    PARTS: tl.constexpr,
    EXPERTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    wait_for_inputs()
    tokens = tl.arange(0, BLOCK)
    mask = tokens < count
    expert, score = _top_1(logits, tokens, mask, count, PARTS, EXPERTS, WIDTH)
    e = tl.arange(0, WIDTH)
    own = (expert[:, None] == e[None, :]) & mask[:, None]
    total = tl.sum(own.to(tl.int32), 0)
    ends = tl.cumsum(total, 0)
    release_next_kernel()
    _store_offsets(dispatch.offsets, ends, e, count, EXPERTS)
    _store_slots(dispatch, tokens, mask, count, own, ends - total, score, BLOCK)


@triton.jit(do_not_specialize=["count"])
def _route_kernel(
    logits,  # [PARTS, count, EXPERTS], fp32
    routing,  # `Routing`, written
    count,
    PARTS: tl.constexpr,
    EXPERTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    wait_for_inputs()
    block = tl.program_id(0)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    mask = tokens < count
    e = tl.arange(0, WIDTH)
    expert, score = _top_1(logits, tokens, mask, count, PARTS, EXPERTS, WIDTH)
    release_next_kernel()
    tl.store(routing.experts + tokens, expert, mask=mask)
    tl.store(routing.scores + tokens, score, mask=mask)
    own = (expert[:, None] == e[None, :]) & mask[:, None]
    tl.store(routing.counts + block * EXPERTS + e, tl.sum(own.to(tl.int32), 0), mask=e < EXPERTS)


@triton.jit(do_not_specialize=["count", "blocks"])
def _dispatch_kernel(
    routing,  # `Routing`
    dispatch,  # `Dispatch`, written
    count,
    blocks,
    EXPERTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    wait_for_inputs()
    block = tl.program_id(0)
    e = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.int32)
    before = tl.zeros((WIDTH,), tl.int32)
    for other in range(blocks):
        hits = tl.load(routing.counts + other * EXPERTS + e, mask=e < EXPERTS, other=0)
        total += hits
        before += tl.where(other < block, hits, 0)
    ends = tl.cumsum(total, 0)
    release_next_kernel()
    if block == 0:
        _store_offsets(dispatch.offsets, ends, e, count, EXPERTS)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    mask = tokens < count
    expert = tl.load(routing.experts + tokens, mask=mask, other=0)
    own = (expert[:, None] == e[None, :]) & mask[:, None]
    score = tl.load(routing.scores + tokens, mask=mask, other=0.0)
    _store_slots(dispatch, tokens, mask, count, own, ends - total + before, score, BLOCK)


def route(logits: Tensor) -> Routing:
    """Return the top-1 expert of each token, the first among equals.

    Args:
        logits: [tokens, experts], fp32; or parts of them, [parts, tokens, experts], summed in their order.
    """
    parts, count, experts = _checked(logits)
    blocks = ceil_div(count, _BLOCK)
    routing = Routing(
        torch.empty(count, dtype=torch.int32, device=logits.device),
        torch.empty(count, dtype=torch.float32, device=logits.device),
        torch.empty((blocks, experts), dtype=torch.int32, device=logits.device),
    )
    launch(_route_kernel, (blocks,))(
        logits, routing, count, PARTS=parts, EXPERTS=experts, WIDTH=power_above(experts), BLOCK=_BLOCK
    )
    return routing


def dispatch(routing: Routing) -> Dispatch:
    """Sort tokens by expert, keeping their order within each."""
    blocks, experts = routing.counts.shape
    (count,) = routing.experts.shape
    result = _empty_dispatch(count, experts, routing.experts.device)
    launch(_dispatch_kernel, (blocks,))(
        routing, result, count, blocks, EXPERTS=experts, WIDTH=power_above(experts), BLOCK=_BLOCK
    )
    return result


def route_and_dispatch(logits: Tensor) -> Dispatch:
    """Return `dispatch(route(logits))`, in one launch where tokens are few."""
    parts, count, experts = _checked(logits)
    if count > _BLOCK:
        return dispatch(route(logits))
    result = _empty_dispatch(count, experts, logits.device)
    launch(_route_and_dispatch_kernel, (1,))(
        logits, result, count, PARTS=parts, EXPERTS=experts, WIDTH=power_above(experts), BLOCK=_BLOCK
    )
    return result


def _checked(logits: Tensor) -> tuple[int, int, int]:
    """Return the numbers of parts, tokens and experts of router logits."""
    require(logits.dtype == torch.float32, f"router logits must be fp32, got {logits.dtype}")
    contiguous(logits=logits)
    count, experts = logits.shape[-2:]
    return (logits.shape[0] if logits.dim() == 3 else 1), count, experts


def _empty_dispatch(count: int, experts: int, device: torch.device) -> Dispatch:
    order = torch.empty(2 * count, dtype=torch.int32, device=device)
    scores = torch.empty(2 * count, dtype=torch.float32, device=device)
    return Dispatch(order, scores, torch.empty(experts + 2, dtype=torch.int32, device=device))
