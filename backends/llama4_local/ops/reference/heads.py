"""From the joined projections to query, key and value heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.ops.reference.rows import rms_norm

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.ops.heads import HeadTransform


def split_heads(qkv: Tensor, plan: HeadTransform) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [rows, heads, head_dim], keys and values [rows, kv_heads, head_dim].

    Order as in Llama 4: rotation, then the weightless norm, then the queries' temperature; all in fp32,
    cast once at the end.
    """
    all_heads, turning = qkv.view(qkv.shape[0], -1, plan.head_dim), plan.heads + plan.kv_heads
    turned, values = all_heads[:, :turning], all_heads[:, turning:]
    if plan.rotation is not None:
        turned = rotate(turned.float(), plan.rotation)
    if plan.norm_eps is not None:
        turned = rms_norm(turned.float(), None, plan.norm_eps)
    queries, keys = turned[:, : plan.heads], turned[:, plan.heads :]
    if plan.query_scale is not None:
        queries = queries.float() * plan.query_scale[:, None, None]
    return queries.to(qkv.dtype), keys.to(qkv.dtype), values


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate each interleaved pair of x [rows, heads, head_dim] (fp32) by its angle.

    Args:
        x: Pairs are elements 2i and 2i + 1, as in Llama 4 (not the two halves).
        rotation: [rows, head_dim / 2, 2]: cosine and sine.
    """
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.view_as_complex(rotation)[:, None]).flatten(-2)
