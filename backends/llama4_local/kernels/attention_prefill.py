# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Attention of several new tokens of a sequence over its pages (Dao et al., FlashAttention-2, 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

from llama4_local.batch import PoolTable
from llama4_local.kernels.arithmetic import dot, rounded
from llama4_local.kernels.groups import locate
from llama4_local.kernels.launch import ceil_div, contiguous, launch, power_above, require
from llama4_local.kernels.tiles import AttentionTile

if TYPE_CHECKING:
    from llama4_local.kv_cache import LayerCache

_LOG2E = 1.4426950408889634


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
    table = pages + segment.to(tl.int64) * width
    k = tl.arange(0, KEYS)
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    total = tl.zeros((QUERIES, DIM), tl.float32)
    for first in range(0, reach, KEYS):
        at = first + k
        there = at < context
        page = tl.load(table + at // PAGE, mask=there, other=0)
        slot = (page * PAGE + at % PAGE) * (KV_HEADS * DIM) + kv_head * DIM
        key = tl.load(keys + slot[None, :] + d[:, None], mask=there[None, :], other=0.0).to(query.dtype)
        score = dot(query, key, tl.zeros((QUERIES, KEYS), tl.float32)) * scale
        score = tl.where(at[None, :] <= positions[:, None], score, float("-inf"))
        top = tl.maximum(best, tl.max(score, 1))
        fade = tl.exp2(best - top)
        probability = tl.exp2(score - top[:, None])
        weight = weight * fade + tl.sum(probability, 1)
        value = tl.load(values + slot[:, None] + d[None, :], mask=there[:, None], other=0.0).to(query.dtype)
        total = dot(rounded(probability, query.dtype), value, total * fade[:, None])
        best = top
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
