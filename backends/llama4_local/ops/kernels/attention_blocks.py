# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Online softmax of single tokens over blocks of cached keys, which the kernels of decode attention share.

Keys are the left operand of the first product and values, transposed, of the second: the few query heads that share
a key head are the matrix units' narrow side, which need not be full.

Where a page holds a whole block of keys, the block's page number is one scalar, loaded one block ahead: keys and values
of later blocks are then in flight while one is multiplied, since their addresses wait for no load.
"""

from __future__ import annotations

import triton
import triton.language as tl

from llama4_local.ops.kernels.arithmetic import dot, query_for, rounded, softmax_base


@triton.jit
def _page(table, block, KEYS: tl.constexpr, PAGE: tl.constexpr):
    return tl.load(table + block // (PAGE // KEYS))


@triton.jit
def attend_blocks(
    queries,  # [tokens, HEADS, DIM]
    cache,  # `PagedCache`
    scale,  # of the logits, in powers of two
    segment,
    row,
    kv_head,
    first,
    last,
    context,
    width,  # pages of a row of the page table
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Return largest logits and sums of weights, [COLUMNS], and weighted sums of values, [DIM, COLUMNS], fp32.

    Of the query heads of one key head over its blocks from the first up to the last, which is not included.
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    column = tl.arange(0, COLUMNS)
    head = kv_head * GROUP + column
    own = column < GROUP
    d = tl.arange(0, DIM)
    query = tl.load(queries + row * (HEADS * DIM) + head[None, :] * DIM + d[:, None], mask=own[None, :], other=0.0)
    query = query_for(query, cache.keys.dtype.element_ty)
    table = cache.pages + segment.to(tl.int64) * width
    k = tl.arange(0, KEYS)
    WHOLE: tl.constexpr = PAGE % KEYS == 0
    if WHOLE:
        page = _page(table, first, KEYS, PAGE)
    best = tl.full((COLUMNS,), float("-inf"), tl.float32)
    weight = tl.zeros((COLUMNS,), tl.float32)
    total = tl.zeros((DIM, COLUMNS), tl.float32)
    for block in range(first, last):
        at = block * KEYS + k
        mask = at < context
        if WHOLE:
            slot = page * PAGE + (block * KEYS) % PAGE + k
            page = _page(table, tl.minimum(block + 1, last - 1), KEYS, PAGE)
        else:
            slot = tl.load(table + at // PAGE, mask=mask, other=0) * PAGE + at % PAGE
        slot = slot * (KV_HEADS * DIM) + kv_head * DIM
        key = tl.load(cache.keys + slot[:, None] + d[None, :], mask=mask[:, None], other=0.0).to(query.dtype)
        value = tl.load(cache.cached_values + slot[None, :] + d[:, None], mask=mask[None, :], other=0.0).to(query.dtype)
        score = dot(key, query, tl.zeros((KEYS, COLUMNS), tl.float32)) * scale
        score = tl.where(mask[:, None], score, float("-inf"))
        top = tl.maximum(best, tl.max(score, 0))
        fade = tl.exp2(best - top)
        probability = tl.exp2(score - softmax_base(top, query.dtype)[None, :])
        weight = weight * fade + tl.sum(probability, 0)
        total = dot(value, rounded(probability, query.dtype), total * fade[None, :])
        best = top
    return best, weight, total
