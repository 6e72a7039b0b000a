# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Decode attention: one new token of each sequence, its keys cut into splits that run in parallel.

With `programs` in its tile config it cuts all sequences together instead, see `attention_shares.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import rounded
from llama4_local.ops.kernels.arrivals import PAST_L1, arrives_last
from llama4_local.ops.kernels.attention_blocks import attend_blocks
from llama4_local.ops.kernels.attention_shares import attend_in_shares
from llama4_local.ops.kernels.launch import launch, power_above
from llama4_local.ops.kernels.overlap import release_next_kernel, wait_for_inputs
from llama4_local.ops.kernels.paged_cache import LOG2E, paged_cache

if TYPE_CHECKING:
    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import PoolTable
    from llama4_local.ops.kernels.tiles import DecodeTile


class _Partials(NamedTuple):
    """Online softmax of each split.

    Args:
        sums: [segments, splits, heads, head_dim], fp32: weighted sums of values.
        tops: [segments, splits, heads], fp32: largest logits, as powers of two.
        weights: As `tops`: sums of the softmax weights.
    """

    sums: Tensor
    tops: Tensor
    weights: Tensor


class _Merged(NamedTuple):
    """Where the last part of a key head to be ready merges all of them.

    Args:
        rows: [tokens, heads·head_dim], written.
        counters: [at least segments·kv_heads], int32, see `arrivals.py`.
    """

    rows: Tensor
    counters: Tensor


@triton.jit
def _blocks_of_a_split(context, TILE: tl.constexpr):
    """Return how many blocks of keys a split attends to: at least `TILE.least`, so that a short context has few."""
    blocks = (context + TILE.keys - 1) // TILE.keys
    return tl.maximum((blocks + TILE.splits - 1) // TILE.splits, TILE.least)


@triton.jit
def _parts(
    partials,  # `_Partials`
    segment,
    head,
    context,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,  # power of two that holds the splits
    TILE: tl.constexpr,
    CACHE: tl.constexpr,  # the loads' cache modifier
):
    """Return tops and weights of a head's splits, [WIDTH], and their sums, [WIDTH, DIM]."""
    KEYS: tl.constexpr = TILE.keys
    SPLITS: tl.constexpr = TILE.splits
    each = _blocks_of_a_split(context, TILE)
    split = tl.arange(0, WIDTH)
    mask = split * each < (context + KEYS - 1) // KEYS
    d = tl.arange(0, DIM)
    place = (segment * SPLITS + split) * HEADS + head
    top = tl.load(partials.tops + place, mask=mask, other=float("-inf"), cache_modifier=CACHE)
    weight = tl.load(partials.weights + place, mask=mask, other=0.0, cache_modifier=CACHE)
    source = partials.sums + place.to(tl.int64)[:, None] * DIM + d[None, :]
    return top, weight, tl.load(source, mask=mask[:, None], other=0.0, cache_modifier=CACHE)


@triton.jit
def _merged(top, weight, parts):
    """Return a head's output, [DIM], fp32, from what `_parts` returned."""
    fade = tl.exp2(top - tl.max(top, 0))
    return tl.sum(parts * fade[:, None], 0) / tl.sum(weight * fade, 0)


@triton.jit(do_not_specialize=["segments", "width"])
def _attention_decode_kernel(
    queries,  # [tokens, HEADS, DIM]
    cache,  # `PagedCache`
    partials,  # `_Partials`, written
    scale,  # of the logits, in powers of two
    segments,
    width,  # pages of a row of the page table
    merged,  # `_Merged`, or None where a second launch merges
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    wait_for_inputs()
    KEYS: tl.constexpr = TILE.keys
    SPLITS: tl.constexpr = TILE.splits
    segment = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    row = tl.load(cache.starts + segment)
    context = tl.load(cache.contexts + segment).to(tl.int32)
    if tl.load(cache.starts + segment + 1) - row != 1:
        return
    each = _blocks_of_a_split(context, TILE)
    first = split * each
    last = tl.minimum(first + each, (context + KEYS - 1) // KEYS)
    if first >= last:
        return
    GROUP: tl.constexpr = HEADS // KV_HEADS
    column = tl.arange(0, COLUMNS)
    head = kv_head * GROUP + column
    own = column < GROUP
    d = tl.arange(0, DIM)
    best, weight, total = attend_blocks(
        queries, cache, scale, segment, row, kv_head, first, last, context, width,
        HEADS, KV_HEADS, DIM, PAGE, COLUMNS, KEYS,
    )  # fmt: skip
    release_next_kernel()
    place = (segment * SPLITS + split) * HEADS + head
    tl.store(partials.tops + place, best, mask=own)
    tl.store(partials.weights + place, weight, mask=own)
    tl.store(partials.sums + place.to(tl.int64)[None, :] * DIM + d[:, None], total, mask=own[None, :])
    if merged is not None:
        parts = ((context + KEYS - 1) // KEYS + each - 1) // each
        if arrives_last(merged.counters + segment * KV_HEADS + kv_head, parts):
            first_head = kv_head * GROUP
            later = _parts(partials, segment, first_head, context, HEADS, DIM, WIDTH, TILE, PAST_L1)
            for i in tl.static_range(GROUP):
                here = later  # the next head's parts are in flight while this one's are merged
                if i + 1 < GROUP:
                    later = _parts(partials, segment, first_head + i + 1, context, HEADS, DIM, WIDTH, TILE, PAST_L1)
                value = _merged(here[0], here[1], here[2])
                target = merged.rows + row * (HEADS * DIM) + (first_head + i) * DIM + d
                tl.store(target, rounded(value, merged.rows.dtype.element_ty))


@triton.jit
def _attention_merge_kernel(
    partials,  # `_Partials`
    cache,  # `PagedCache`
    out,  # [tokens, HEADS·DIM]
    HEADS: tl.constexpr,
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
    context = tl.load(cache.contexts + segment).to(tl.int32)
    top, weight, sums = _parts(partials, segment, head, context, HEADS, DIM, WIDTH, TILE, "")
    total = _merged(top, weight, sums)
    release_next_kernel()
    d = tl.arange(0, DIM)
    tl.store(out + row * (HEADS * DIM) + head * DIM + d, rounded(total, out.dtype.element_ty))


def attention_decode(
    queries: Tensor,
    layer: LayerCache,
    starts: Tensor,
    table: PoolTable,
    tile: DecodeTile,
    out: Tensor,
    counters: Tensor | None = None,
) -> None:
    """Attend from the rows of sequences that add one token; other rows are left alone.

    Args:
        queries: [tokens, heads, head_dim], bf16.
        layer: Keys and values, those of this step included, bf16 or float8_e4m3fn.
        starts: [segments + 1], int64.
        table: Pages and contexts of the layer's pool.
        tile: The tile config.
        out: [tokens, heads·head_dim], bf16, written in the rows that attend.
        counters: Those of `arrival_counters`, for tile configs that merge; without them, and for more key heads than
            counters, a second launch merges.
    """
    _, heads, dim = queries.shape
    _, page_size, kv_heads, _ = layer.keys.shape
    segments, width = table.pages.shape
    cache = paged_cache(queries, layer, starts, table, out)
    if tile.programs:
        attend_in_shares(queries, cache, tile, out)
        return
    tops = torch.empty((segments, tile.splits, heads), dtype=torch.float32, device=out.device)
    partials = _Partials(tops.new_empty((*tops.shape, dim)), tops, torch.empty_like(tops))
    merged = None
    if tile.merges and counters is not None and segments * kv_heads <= len(counters):
        merged = _Merged(out, counters)
    grid, most = (segments, kv_heads, tile.splits), power_above(tile.splits)
    launch(_attention_decode_kernel, grid, warps=tile.warps, stages=tile.stages, matmul=True)(
        queries, cache, partials, dim**-0.5 * LOG2E, segments, width, merged,
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, PAGE=page_size,
        COLUMNS=max(16, power_above(heads // kv_heads)), WIDTH=most, TILE=tile,
    )  # fmt: skip
    if merged is None:
        launch(_attention_merge_kernel, (segments, heads))(
            partials, cache, out, HEADS=heads, DIM=dim, WIDTH=most, TILE=tile
        )
