# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Attention of several new tokens of a sequence over its pages (Dao et al., FlashAttention-2, 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from llama4_local.ops.kernels.arithmetic import dot, rounded
from llama4_local.ops.kernels.groups import locate
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, power_above, require

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import PoolTable
    from llama4_local.ops.kernels.tiles import AttentionTile

_LOG2E = 1.4426950408889634


@triton.jit
def _attended(
    query,  # [QUERIES, DIM]
    keys,
    values,
    table,  # pages of the sequence
    first,  # key of the block
    positions,  # [QUERIES]
    context,
    kv_head,
    scale,
    best,  # [QUERIES]: largest logit so far, times scale
    weight,  # [QUERIES]: sum of weights
    total,  # [QUERIES, DIM]: weighted sum of values
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    KEYS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Return (best, weight, total) with one block of keys more; WHOLE says that every query sees all of it."""
    k = tl.arange(0, KEYS)
    d = tl.arange(0, DIM)
    at = first + k
    there = at < context
    if PAGE % KEYS == 0:  # one page has the whole block: its address is looked up once
        slot = (tl.load(table + first // PAGE) * PAGE + first % PAGE) + k
    else:
        slot = tl.load(table + at // PAGE, mask=there, other=0) * PAGE + at % PAGE
    slot = slot * (KV_HEADS * DIM) + kv_head * DIM
    if WHOLE:
        key = tl.load(keys + slot[None, :] + d[:, None])
        value = tl.load(values + slot[:, None] + d[None, :])
    else:
        key = tl.load(keys + slot[None, :] + d[:, None], mask=there[None, :], other=0.0)
        value = tl.load(values + slot[:, None] + d[None, :], mask=there[:, None], other=0.0)
    score = dot(query, key.to(query.dtype), tl.zeros((query.shape[0], KEYS), tl.float32))
    if not WHOLE:
        score = tl.where(at[None, :] <= positions[:, None], score, float("-inf"))
    top = tl.maximum(best, tl.max(score, 1) * scale)
    fade = tl.exp2(best - top)
    probability = tl.exp2(score * scale - top[:, None])  # one instruction before the power
    weight = weight * fade + tl.sum(probability, 1)
    total = dot(rounded(probability, query.dtype), value.to(query.dtype), total * fade[:, None])
    return top, weight, total


@triton.jit(do_not_specialize=["segments", "width"])
def _attention_prefill_kernel(
    queries,  # [tokens, HEADS, DIM]
    keys,  # [pages, PAGE, KV_HEADS, DIM]
    values,  # as keys
    starts,  # [segments + 1], int64
    pages,  # [segments, width], int64
    contexts,  # [segments], int64
    out,  # [tokens, HEADS·DIM]
    scale,  # of the logits, in powers of two
    segments,
    width,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    SEGMENTS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    segment, row, end = locate(starts, segments, tl.program_id(0), SEGMENTS, QUERIES)
    if segment >= segments:
        return
    start = tl.load(starts + segment)
    if end - start == 1:  # a single token is left to the decode kernel, whatever it is batched with
        return
    head = tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    d = tl.arange(0, DIM)
    rows = row + tl.arange(0, QUERIES)
    live = rows < end
    place = rows.to(tl.int64)[:, None] * (HEADS * DIM) + (head * DIM + d)[None, :]
    query = tl.load(queries + place, mask=live[:, None], other=0.0)
    context = tl.load(contexts + segment).to(tl.int32)
    positions = (context - (end - rows)).to(tl.int32)  # the last row sees the whole context
    reach = tl.minimum(context, context - (end - row).to(tl.int32) + QUERIES)
    # The first row's keys, itself included, are seen by all the others: blocks within them need no mask.
    shared = (context - (end - row).to(tl.int32) + 1) // KEYS * KEYS
    table = pages + segment.to(tl.int64) * width
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    total = tl.zeros((QUERIES, DIM), tl.float32)
    for first in range(0, shared, KEYS):
        best, weight, total = _attended(
            query, keys, values, table, first, positions, context, kv_head, scale, best, weight, total,
            KV_HEADS, DIM, PAGE, KEYS, True,
        )  # fmt: skip
    for first in range(shared, reach, KEYS):
        best, weight, total = _attended(
            query, keys, values, table, first, positions, context, kv_head, scale, best, weight, total,
            KV_HEADS, DIM, PAGE, KEYS, False,
        )  # fmt: skip
    total = total / weight[:, None]
    tl.store(out + place, rounded(total, out.dtype.element_ty), mask=live[:, None])


def attention_prefill(
    queries: Tensor, layer: LayerCache, starts: Tensor, table: PoolTable, tile: AttentionTile, out: Tensor
) -> None:
    """Attend from the rows of sequences that add two or more tokens; others are left alone.

    Args:
        queries: [tokens, heads, head_dim], bf16.
        layer: Keys and values, those of this step included, bf16 or float8_e4m3fn. A chunk-local pool's pages
            begin at the chunk's start, so nothing before it is ever read.
        starts: [segments + 1], int64.
        table: Pages and contexts of the layer's pool.
        tile: How to cut it.
        out: [tokens, heads·head_dim], bf16, written where it applies.
    """
    count, heads, dim = queries.shape
    _, page_size, kv_heads, _ = layer.keys.shape
    segments, width = table.pages.shape
    require(dim & (dim - 1) == 0 and dim >= 16, f"head_dim must be a power of two from 16 on, got {dim}")
    contiguous(queries=queries, keys=layer.keys, values=layer.values, starts=starts, pages=table.pages, out=out)
    launch(
        _attention_prefill_kernel,
        (ceil_div(count, tile.queries) + segments, heads),
        {"queries": queries, "keys": layer.keys, "values": layer.values, "starts": starts, "pages": table.pages}
        | {"contexts": table.context_lengths, "out": out, "scale": dim**-0.5 * _LOG2E}
        | {"segments": segments, "width": width},
        {"HEADS": heads, "KV_HEADS": kv_heads, "DIM": dim, "PAGE": page_size}
        | {"SEGMENTS": max(64, power_above(segments)), "QUERIES": tile.queries, "KEYS": tile.keys},
        warps=tile.warps,
        stages=tile.stages,
        matmul=True,
    )
