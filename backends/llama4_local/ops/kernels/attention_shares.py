# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Decode attention whose programs share the blocks of all sequences equally, whatever their lengths.

The blocks of all sequences that add one token stand in one list, by sequence, key head and place, and each of a fixed
number of programs takes as many of them, one after the other. They find their place on the device, from the lengths.
A program that crosses from one key head to the next leaves a part of each. Both programs and key heads rise along the
list, so that the sum of their numbers is another one for each part: it is the part's place in memory, and those of
one key head follow one another. A second launch merges them in that order.

A sequence's parts depend on its neighbours' lengths, so its result may differ in its last bits between batches: not for
`deterministic` serving.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import rounded
from llama4_local.ops.kernels.attention_blocks import attend_blocks
from llama4_local.ops.kernels.launch import launch, power_above
from llama4_local.ops.kernels.overlap import release_next_kernel, wait_for_inputs
from llama4_local.ops.kernels.paged_cache import LOG2E

if TYPE_CHECKING:
    from llama4_local.ops.kernels.paged_cache import PagedCache
    from llama4_local.ops.kernels.tiles import DecodeTile

_CHUNK = tl.constexpr(64)  # sequences whose lengths are read together
_MERGED = 32  # parts that are merged together


class _Parts(NamedTuple):
    """Online softmax of each part.

    Args:
        sums: [programs + segments·kv_heads, query heads of a key head, head_dim], fp32: weighted sums of values.
        tops: The same without head_dim: largest logits, as powers of two.
        weights: As `tops`: sums of the softmax weights.
    """

    sums: Tensor
    tops: Tensor
    weights: Tensor


@triton.jit
def _blocks(cache, segment, mask, KEYS: tl.constexpr):
    """Return the blocks of one key head of sequences; 0 for those that do not add one token."""
    first = tl.load(cache.starts + segment, mask=mask, other=0)
    behind = tl.load(cache.starts + segment + 1, mask=mask, other=0)
    context = tl.load(cache.contexts + segment, mask=mask, other=0).to(tl.int32)
    return tl.where(behind - first == 1, (context + KEYS - 1) // KEYS, 0)


@triton.jit
def _share(cache, segments, KV_HEADS: tl.constexpr, TILE: tl.constexpr):
    """Return the blocks of the list, and how many of them a program takes."""
    s = tl.arange(0, _CHUNK)
    total = 0
    for chunk in range(0, segments, _CHUNK):
        total += tl.sum(_blocks(cache, chunk + s, chunk + s < segments, TILE.keys), 0)
    total *= KV_HEADS
    return total, tl.maximum((total + TILE.programs - 1) // TILE.programs, TILE.least)


@triton.jit(do_not_specialize=["segments", "width"])
def _attention_shares_kernel(
    queries,  # [tokens, HEADS, DIM]
    cache,  # `PagedCache`
    parts,  # `_Parts`, written
    scale,  # of the logits, in powers of two
    segments,
    width,  # pages of a row of the page table
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
):
    wait_for_inputs()
    KEYS: tl.constexpr = TILE.keys
    program = tl.program_id(0)
    total, each = _share(cache, segments, KV_HEADS, TILE)
    item = program * each
    end = tl.minimum(item + each, total)
    if item >= end:
        return
    # The sequence of the first block, and the blocks before it in the list.
    s = tl.arange(0, _CHUNK)
    segment = 0
    before = 0
    passed = 0
    for chunk in range(0, segments, _CHUNK):
        count = _blocks(cache, chunk + s, chunk + s < segments, KEYS) * KV_HEADS
        over = (passed + tl.cumsum(count, 0) <= item) & (chunk + s < segments)
        segment += tl.sum(over.to(tl.int32), 0)
        before += tl.sum(tl.where(over, count, 0), 0)
        passed += tl.sum(count, 0)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    column = tl.arange(0, COLUMNS)
    own = column < GROUP
    d = tl.arange(0, DIM)
    while item < end:
        blocks = _blocks(cache, segment, True, KEYS)
        while item - before >= blocks * KV_HEADS:
            before += blocks * KV_HEADS
            segment += 1
            blocks = _blocks(cache, segment, True, KEYS)
        kv_head = (item - before) // blocks
        first = item - before - kv_head * blocks
        last = tl.minimum(blocks, first + end - item)
        row = tl.load(cache.starts + segment)
        context = tl.load(cache.contexts + segment).to(tl.int32)
        best, weight, sums = attend_blocks(
            queries, cache, scale, segment, row, kv_head, first, last, context, width,
            HEADS, KV_HEADS, DIM, PAGE, COLUMNS, KEYS,
        )  # fmt: skip
        place = (program + segment * KV_HEADS + kv_head) * GROUP + column
        tl.store(parts.tops + place, best, mask=own)
        tl.store(parts.weights + place, weight, mask=own)
        tl.store(parts.sums + place.to(tl.int64)[None, :] * DIM + d[:, None], sums, mask=own[None, :])
        item += last - first
    release_next_kernel()


@triton.jit(do_not_specialize=["segments"])
def _attention_gather_kernel(
    parts,  # `_Parts`
    cache,  # `PagedCache`
    out,  # [tokens, HEADS·DIM]
    segments,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    wait_for_inputs()
    segment = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.load(cache.starts + segment)
    if tl.load(cache.starts + segment + 1) - row != 1:
        return
    KEYS: tl.constexpr = TILE.keys
    GROUP: tl.constexpr = HEADS // KV_HEADS
    kv_head = head // GROUP
    _, each = _share(cache, segments, KV_HEADS, TILE)
    s = tl.arange(0, _CHUNK)
    before = 0
    for chunk in range(0, segment, _CHUNK):
        before += tl.sum(_blocks(cache, chunk + s, chunk + s < segment, KEYS), 0)
    blocks = _blocks(cache, segment, True, KEYS)
    item = before * KV_HEADS + kv_head * blocks
    first = item // each
    last = (item + blocks - 1) // each + 1
    best = float("-inf")
    weight = 0.0
    d = tl.arange(0, DIM)
    total = tl.zeros((DIM,), tl.float32)
    for begin in range(first, last, WIDTH):
        program = begin + tl.arange(0, WIDTH)
        mask = program < last
        place = (program + segment * KV_HEADS + kv_head) * GROUP + head % GROUP
        top = tl.load(parts.tops + place, mask=mask, other=float("-inf"))
        own = tl.load(parts.weights + place, mask=mask, other=0.0)
        sums = tl.load(parts.sums + place.to(tl.int64)[:, None] * DIM + d[None, :], mask=mask[:, None], other=0.0)
        higher = tl.maximum(best, tl.max(top, 0))
        fade = tl.exp2(top - higher)
        kept = tl.exp2(best - higher)
        weight = weight * kept + tl.sum(own * fade, 0)
        total = total * kept + tl.sum(sums * fade[:, None], 0)
        best = higher
    release_next_kernel()
    tl.store(out + row * (HEADS * DIM) + head * DIM + d, rounded(total / weight, out.dtype.element_ty))


def attend_in_shares(queries: Tensor, cache: PagedCache, tile: DecodeTile, out: Tensor) -> None:
    """Attend as `attention_decode` does, with a tile config of programs that share all blocks.

    Args:
        queries: [tokens, heads, head_dim], bf16.
        cache: Keys, values, pages and lengths.
        tile: The tile config.
        out: [tokens, heads·head_dim], bf16, written in the rows that attend.
    """
    _, heads, dim = queries.shape
    _, page_size, kv_heads, _ = cache.keys.shape
    segments, width = cache.pages.shape
    group = heads // kv_heads
    tops = torch.empty((tile.programs + segments * kv_heads, group), dtype=torch.float32, device=out.device)
    parts = _Parts(tops.new_empty((*tops.shape, dim)), tops, torch.empty_like(tops))
    launch(_attention_shares_kernel, (tile.programs,), warps=tile.warps, stages=tile.stages, matmul=True)(
        queries, cache, parts, dim**-0.5 * LOG2E, segments, width,
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, PAGE=page_size, COLUMNS=max(16, power_above(group)), TILE=tile,
    )  # fmt: skip
    launch(_attention_gather_kernel, (segments, heads))(
        parts, cache, out, segments, HEADS=heads, KV_HEADS=kv_heads, DIM=dim, WIDTH=_MERGED, TILE=tile
    )
