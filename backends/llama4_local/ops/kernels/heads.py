# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""QKV epilogue: from the joined projections to queries, and to keys and values in the paged cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import rounded
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, require
from llama4_local.ops.kernels.overlap import release_next_kernel, wait_for_inputs

if TYPE_CHECKING:
    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.heads import HeadTransform

_HEADS = 8  # heads of a program


@triton.jit(do_not_specialize=["count"])
def _heads_kernel(
    qkv,  # [PARTS, count, (HEADS + 2·KV_HEADS)·DIM]
    rotation,  # [count, DIM/2, 2], fp32, or None
    query_scale,  # [count], fp32, or None
    slots,  # [count], int64
    queries,  # [count, HEADS, DIM]
    keys,  # [pages·page_size, KV_HEADS, DIM]
    values,  # as keys
    count,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PARTS: tl.constexpr,
    NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    wait_for_inputs()
    token = tl.program_id(0)
    QUERY_BLOCKS: tl.constexpr = (HEADS + BLOCK - 1) // BLOCK
    KV_BLOCKS: tl.constexpr = (KV_HEADS + BLOCK - 1) // BLOCK
    block = tl.program_id(1)
    is_query = block < QUERY_BLOCKS
    is_value = block >= QUERY_BLOCKS + KV_BLOCKS
    block -= tl.where(is_query, 0, tl.where(is_value, QUERY_BLOCKS + KV_BLOCKS, QUERY_BLOCKS))
    head = block * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, DIM)
    mask = (head < tl.where(is_query, HEADS, KV_HEADS))[:, None]
    before = tl.where(is_query, 0, tl.where(is_value, HEADS + KV_HEADS, HEADS))
    WIDTH: tl.constexpr = (HEADS + 2 * KV_HEADS) * DIM
    source = qkv + token.to(tl.int64) * WIDTH + ((before + head) * DIM)[:, None] + d[None, :]
    x = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        x += tl.load(source + (part * count).to(tl.int64) * WIDTH, mask=mask, other=0.0).to(tl.float32)
    release_next_kernel()
    slot = tl.load(slots + token) * (KV_HEADS * DIM)
    cached = slot + (head * DIM)[:, None] + d[None, :]
    if is_value:
        tl.store(values + cached, rounded(x, values.dtype.element_ty), mask=mask)
    else:
        if rotation is not None:
            pair = tl.load(rotation + token.to(tl.int64) * DIM + d)
            cosine, sine = tl.split(tl.reshape(pair, (DIM // 2, 2)))
            even, odd = tl.split(tl.reshape(x, (BLOCK, DIM // 2, 2)))
            turned = tl.join(even * cosine[None, :] - odd * sine[None, :], even * sine[None, :] + odd * cosine[None, :])
            x = tl.reshape(turned, (BLOCK, DIM))
        if NORM:
            x *= tl.rsqrt(tl.sum(x * x, 1) / DIM + eps)[:, None]
        if is_query:
            if query_scale is not None:
                x *= tl.load(query_scale + token)
            target = queries + token.to(tl.int64) * (HEADS * DIM) + (head * DIM)[:, None] + d[None, :]
            tl.store(target, rounded(x, queries.dtype.element_ty), mask=mask)
        else:
            tl.store(keys + cached, rounded(x, keys.dtype.element_ty), mask=mask)


def qkv_epilogue(qkv: Tensor, plan: HeadTransform, layer: LayerCache, slots: Tensor) -> Tensor:
    """Rotate, normalise and scale the heads, and write keys and values to the cache; see `Ops.qkv_epilogue`.

    Args:
        qkv: [tokens, (heads + 2·kv_heads)·head_dim], bf16, or parts of it to be summed in their order,
            [parts, …], fp32.
        plan: The layer's treatment of its heads; head_dim must be a power of two.
        layer: bf16 or float8_e4m3fn, written at `slots`; in e4m3 values beyond ±448 become ±448.
        slots: [tokens], int64.

    Returns:
        The queries, [tokens, heads, head_dim], bf16.
    """
    parts = qkv if qkv.dim() == 3 else qkv[None]
    _, count, width = parts.shape
    require(plan.head_dim & (plan.head_dim - 1) == 0, f"head_dim must be a power of two, got {plan.head_dim}")
    require(width == (plan.heads + 2 * plan.kv_heads) * plan.head_dim, f"{width} columns do not make the plan's heads")
    contiguous(qkv=qkv, rotation=plan.rotation, query_scale=plan.query_scale, slots=slots)
    contiguous(keys=layer.keys, values=layer.values)
    queries = torch.empty((count, plan.heads, plan.head_dim), dtype=torch.bfloat16, device=qkv.device)
    grid = (count, ceil_div(plan.heads, _HEADS) + 2 * ceil_div(plan.kv_heads, _HEADS))
    launch(_heads_kernel, grid)(
        parts, plan.rotation, plan.query_scale, slots, queries, layer.keys, layer.values, count, plan.norm_eps or 0.0,
        HEADS=plan.heads, KV_HEADS=plan.kv_heads, DIM=plan.head_dim,
        PARTS=parts.shape[0], NORM=plan.norm_eps is not None, BLOCK=_HEADS,
    )  # fmt: skip
    return queries
