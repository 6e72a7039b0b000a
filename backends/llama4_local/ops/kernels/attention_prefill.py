# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Prefill attention: several new tokens of a sequence over its pages (Dao, FlashAttention-2, 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from llama4_local.ops.kernels.arithmetic import dot, query_for, rounded, softmax_base
from llama4_local.ops.kernels.groups import locate
from llama4_local.ops.kernels.launch import ceil_div, launch, power_above
from llama4_local.ops.kernels.overlap import release_next_kernel, wait_for_inputs
from llama4_local.ops.kernels.paged_cache import LOG2E, paged_cache

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import PoolTable
    from llama4_local.ops.kernels.tiles import AttentionTile


@triton.jit
def _attended(
    query,  # [queries, DIM]
    cache,  # `PagedCache`
    table,  # pages of the sequence
    page,  # of the block, where one page holds all of it
    first,  # first key of the block
    reach,  # key after the last one that any query attends to
    positions,  # [queries]
    context,
    kv_head,
    scale,
    best,  # [queries]: largest logit so far, times scale
    weight,  # [queries]: sum of the softmax weights
    total,  # [queries, DIM]: weighted sum of values
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    KEYS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Return (best, weight, total) after one more block of keys, and the next block's page.

    WHOLE: every query attends to all of it.
    """
    k = tl.arange(0, KEYS)
    d = tl.arange(0, DIM)
    at = first + k
    mask = at < context
    if PAGE % KEYS == 0:  # loaded one block ahead: the addresses of keys and values wait for no load
        slot = page * PAGE + first % PAGE + k
        page = tl.load(table + tl.minimum(first + KEYS, reach - 1) // PAGE)
    else:
        slot = tl.load(table + at // PAGE, mask=mask, other=0) * PAGE + at % PAGE
    slot = slot * (KV_HEADS * DIM) + kv_head * DIM
    if WHOLE:
        key = tl.load(cache.keys + slot[None, :] + d[:, None])
        value = tl.load(cache.cached_values + slot[:, None] + d[None, :])
    else:
        key = tl.load(cache.keys + slot[None, :] + d[:, None], mask=mask[None, :], other=0.0)
        value = tl.load(cache.cached_values + slot[:, None] + d[None, :], mask=mask[:, None], other=0.0)
    score = dot(query, key.to(query.dtype), tl.zeros((query.shape[0], KEYS), tl.float32))
    if not WHOLE:
        score = tl.where(at[None, :] <= positions[:, None], score, float("-inf"))
    top = tl.maximum(best, tl.max(score, 1) * scale)
    fade = tl.exp2(best - top)
    probability = tl.exp2(score * scale - softmax_base(top, query.dtype)[:, None])  # one instruction before the power
    weight = weight * fade + tl.sum(probability, 1)
    total = dot(rounded(probability, query.dtype), value.to(query.dtype), total * fade[:, None])
    return top, weight, total, page


@triton.jit(do_not_specialize=["segments", "width"])
def _attention_prefill_kernel(
    queries,  # [tokens, HEADS, DIM]
    cache,  # `PagedCache`
    out,  # [tokens, HEADS·DIM]
    scale,  # of the logits, in powers of two
    segments,
    width,  # pages of a row of the page table
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    SEGMENTS: tl.constexpr,
    TILE: tl.constexpr,
):
    wait_for_inputs()
    QUERIES: tl.constexpr = TILE.queries
    KEYS: tl.constexpr = TILE.keys
    segment, row, end = locate(cache.starts, segments, tl.program_id(0), SEGMENTS, QUERIES)
    if segment >= segments:
        return
    start = tl.load(cache.starts + segment)
    if end - start == 1:  # the decode kernel attends from single tokens, in mixed batches too
        return
    head = tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    d = tl.arange(0, DIM)
    rows = row + tl.arange(0, QUERIES)
    row_mask = rows < end
    place = rows.to(tl.int64)[:, None] * (HEADS * DIM) + (head * DIM + d)[None, :]
    query = query_for(tl.load(queries + place, mask=row_mask[:, None], other=0.0), cache.keys.dtype.element_ty)
    context = tl.load(cache.contexts + segment).to(tl.int32)
    positions = (context - (end - rows)).to(tl.int32)  # the last row attends to the whole context
    reach = tl.minimum(context, context - (end - row).to(tl.int32) + QUERIES)
    # Every row attends to the first row's keys, its own included: blocks within them need no mask.
    shared = (context - (end - row).to(tl.int32) + 1) // KEYS * KEYS
    table = cache.pages + segment.to(tl.int64) * width
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    total = tl.zeros((QUERIES, DIM), tl.float32)
    page = tl.load(table)
    for first in range(0, shared, KEYS):
        best, weight, total, page = _attended(
            query, cache, table, page, first, reach, positions, context, kv_head, scale, best, weight, total,
            KV_HEADS, DIM, PAGE, KEYS, True,
        )  # fmt: skip
    for first in range(shared, reach, KEYS):
        best, weight, total, page = _attended(
            query, cache, table, page, first, reach, positions, context, kv_head, scale, best, weight, total,
            KV_HEADS, DIM, PAGE, KEYS, False,
        )  # fmt: skip
    release_next_kernel()
    total = total / weight[:, None]
    tl.store(out + place, rounded(total, out.dtype.element_ty), mask=row_mask[:, None])


def attention_prefill(
    queries: Tensor, layer: LayerCache, starts: Tensor, table: PoolTable, tile: AttentionTile, out: Tensor
) -> None:
    """Attend from the rows of sequences that add two or more tokens; other rows are left alone.

    Args:
        queries: [tokens, heads, head_dim], bf16.
        layer: Keys and values, those of this step included, bf16 or float8_e4m3fn. A chunk-local pool's pages
            begin at the chunk's start, so that earlier keys are never read.
        starts: [segments + 1], int64.
        table: Pages and contexts of the layer's pool.
        tile: The tile config.
        out: [tokens, heads·head_dim], bf16, written in the rows that attend.
    """
    count, heads, dim = queries.shape
    _, page_size, kv_heads, _ = layer.keys.shape
    segments, width = table.pages.shape
    cache = paged_cache(queries, layer, starts, table, out)
    grid = (ceil_div(count, tile.queries) + segments, heads)
    launch(_attention_prefill_kernel, grid, warps=tile.warps, stages=tile.stages, matmul=True)(
        queries, cache, out, dim**-0.5 * LOG2E, segments, width,
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, PAGE=page_size,
        SEGMENTS=max(64, power_above(segments)), TILE=tile,
    )  # fmt: skip
