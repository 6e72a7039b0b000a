# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Attention of one new token of each sequence, its keys cut into splits that run side by side.

Keys stand on the left of the first product and values, transposed, on the left of the second: the few heads
that share a key head are the narrow side, which the matrix units need not fill. How a sequence is split
depends on its own length only, and splits are merged in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import dot, rounded
from llama4_local.ops.kernels.launch import contiguous, launch, power_above, require
from llama4_local.ops.kernels.products import share

if TYPE_CHECKING:
    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import PoolTable
    from llama4_local.ops.kernels.tiles import DecodeTile

_LOG2E = 1.4426950408889634


@triton.jit(do_not_specialize=["segments", "width"])
def _attention_decode_kernel(
    queries,  # [tokens, HEADS, DIM]
    keys,  # [pages, PAGE, KV_HEADS, DIM]
    values,  # as keys
    starts,  # [segments + 1], int64
    pages,  # [segments, width], int64
    contexts,  # [segments], int64
    sums,  # [segments, SPLITS, HEADS, DIM], fp32
    tops,  # [segments, SPLITS, HEADS], fp32
    weights,  # as tops
    scale,  # of the logits, in powers of two
    segments,
    width,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    SPLITS: tl.constexpr,
    KEYS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    segment = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    row = tl.load(starts + segment)
    context = tl.load(contexts + segment).to(tl.int32)
    if tl.load(starts + segment + 1) - row != 1:
        return
    GROUP: tl.constexpr = HEADS // KV_HEADS
    column = tl.arange(0, COLUMNS)
    head = kv_head * GROUP + column
    own = column < GROUP
    d = tl.arange(0, DIM)
    query = tl.load(queries + row * (HEADS * DIM) + head[None, :] * DIM + d[:, None], mask=own[None, :], other=0.0)
    first, last = share((context + KEYS - 1) // KEYS, split, SPLITS)
    table = pages + segment.to(tl.int64) * width
    k = tl.arange(0, KEYS)
    best = tl.full((COLUMNS,), float("-inf"), tl.float32)
    weight = tl.zeros((COLUMNS,), tl.float32)
    total = tl.zeros((DIM, COLUMNS), tl.float32)
    for block in range(first, last):
        at = block * KEYS + k
        there = at < context
        page = tl.load(table + at // PAGE, mask=there, other=0)
        slot = (page * PAGE + at % PAGE) * (KV_HEADS * DIM) + kv_head * DIM
        key = tl.load(keys + slot[:, None] + d[None, :], mask=there[:, None], other=0.0).to(query.dtype)
        value = tl.load(values + slot[None, :] + d[:, None], mask=there[None, :], other=0.0).to(query.dtype)
        score = dot(key, query, tl.zeros((KEYS, COLUMNS), tl.float32)) * scale
        score = tl.where(there[:, None], score, float("-inf"))
        top = tl.maximum(best, tl.max(score, 0))
        fade = tl.exp2(best - top)
        probability = tl.exp2(score - top[None, :])
        weight = weight * fade + tl.sum(probability, 0)
        total = dot(value, rounded(probability, query.dtype), total * fade[None, :])
        best = top
    place = (segment * SPLITS + split) * HEADS + head
    tl.store(tops + place, best, mask=own)
    tl.store(weights + place, weight, mask=own)
    tl.store(sums + place.to(tl.int64)[None, :] * DIM + d[:, None], total, mask=own[None, :])


@triton.jit
def _attention_merge_kernel(
    sums,  # [segments, SPLITS, HEADS, DIM], fp32
    tops,  # [segments, SPLITS, HEADS], fp32
    weights,  # as tops
    starts,  # [segments + 1], int64
    out,  # [tokens, HEADS·DIM]
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    segment = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.load(starts + segment)
    if tl.load(starts + segment + 1) - row != 1:
        return
    split = tl.arange(0, WIDTH)
    there = split < SPLITS
    d = tl.arange(0, DIM)
    place = (segment * SPLITS + split) * HEADS + head
    top = tl.load(tops + place, mask=there, other=float("-inf"))
    weight = tl.load(weights + place, mask=there, other=0.0)
    parts = tl.load(sums + place.to(tl.int64)[:, None] * DIM + d[None, :], mask=there[:, None], other=0.0)
    fade = tl.exp2(top - tl.max(top, 0))
    total = tl.sum(parts * fade[:, None], 0) / tl.sum(weight * fade, 0)
    tl.store(out + row * (HEADS * DIM) + head * DIM + d, rounded(total, out.dtype.element_ty))


def attention_decode(
    queries: Tensor, layer: LayerCache, starts: Tensor, table: PoolTable, tile: DecodeTile, out: Tensor
) -> None:
    """Attend from the rows of sequences that add one token; others are left alone.

    Args:
        queries: [tokens, heads, head_dim], bf16.
        layer: Keys and values, those of this step included, bf16 or float8_e4m3fn.
        starts: [segments + 1], int64.
        table: Pages and contexts of the layer's pool.
        tile: How to cut it.
        out: [tokens, heads·head_dim], bf16, written where it applies.
    """
    _, heads, dim = queries.shape
    _, page_size, kv_heads, _ = layer.keys.shape
    segments, width = table.pages.shape
    require(dim & (dim - 1) == 0 and dim >= 16, f"head_dim must be a power of two from 16 on, got {dim}")
    contiguous(queries=queries, keys=layer.keys, values=layer.values, starts=starts, pages=table.pages, out=out)
    sums = torch.empty((segments, tile.splits, heads, dim), dtype=torch.float32, device=out.device)
    tops = torch.empty((segments, tile.splits, heads), dtype=torch.float32, device=out.device)
    weights = torch.empty_like(tops)
    shape = {"HEADS": heads, "DIM": dim, "SPLITS": tile.splits}
    launch(
        _attention_decode_kernel,
        (segments, kv_heads, tile.splits),
        {"queries": queries, "keys": layer.keys, "values": layer.values, "starts": starts, "pages": table.pages}
        | {"contexts": table.context_lengths, "sums": sums, "tops": tops, "weights": weights}
        | {"scale": dim**-0.5 * _LOG2E, "segments": segments, "width": width},
        shape
        | {"KV_HEADS": kv_heads, "PAGE": page_size, "KEYS": tile.keys}
        | {"COLUMNS": max(16, power_above(heads // kv_heads))},
        warps=tile.warps,
        stages=tile.stages,
        matmul=True,
    )
    launch(
        _attention_merge_kernel,
        (segments, heads),
        {"sums": sums, "tops": tops, "weights": weights, "starts": starts, "out": out},
        shape | {"WIDTH": power_above(tile.splits)},
        warps=4,
    )
