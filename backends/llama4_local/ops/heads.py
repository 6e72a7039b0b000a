"""The transform of a layer's query and key heads between projection and attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class HeadTransform:
    """RoPE, norm and temperature of one layer's heads in one step.

    Args:
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of each.
        rotation: [tokens, head_dim / 2, 2], fp32: cosine and sine for each interleaved pair, or None on
            layers without RoPE.
        norm_eps: Epsilon of the weightless RMS norm on queries and keys, or None without it.
        query_scale: [tokens], fp32: temperature of each query, or None where it is one.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rotation: Tensor | None = None
    norm_eps: float | None = None
    query_scale: Tensor | None = None
