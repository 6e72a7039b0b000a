"""Bytes of the paged cache, by pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4_local.cache.page_table import CacheShape, default_page_size

if TYPE_CHECKING:
    from llama4_local.config.model import TextConfig


@dataclass(frozen=True, slots=True)
class CacheBytes:
    """Bytes of both pools.

    Args:
        global_pool: Keys and values of layers that see the whole sequence.
        local_pool: Keys and values of layers that see one chunk.
        shape: How the cache is divided into pages.
    """

    global_pool: int
    local_pool: int
    shape: CacheShape

    @property
    def total(self) -> int:
        """Bytes of both pools."""
        return self.global_pool + self.local_pool


def plan_cache(text: TextConfig, *, context: int, sequences: int, itemsize: int) -> CacheBytes:
    """Return the cache in which `sequences` sequences of `context` tokens each have all their pages.

    Args:
        text: The decoder's shape.
        context: Tokens of each sequence.
        sequences: Sequences at once.
        itemsize: Bytes of one number in the cache.
    """
    bare = CacheShape(0, 0, default_page_size(text.chunk), text.chunk)
    shape = CacheShape(
        sequences * bare.pages_for(context), sequences * bare.local_pages_for(context), bare.page_size, text.chunk
    )
    page = shape.page_size * row_bytes(text, itemsize)
    # Each pool has one page more, the null page.
    return CacheBytes(
        global_pool=len(text.global_layers) * (shape.global_pages + 1) * page,
        local_pool=len(text.local_layers) * (shape.local_pages + 1) * page,
        shape=shape,
    )


def row_bytes(text: TextConfig, itemsize: int) -> int:
    """Return the bytes of one token's key and value in one layer."""
    return 2 * text.kv_heads * text.head_dim * itemsize


def step_cache_bytes(text: TextConfig, *, context: int, itemsize: int) -> float:
    """Return the bytes of cache that a sequence of `context` tokens reads for its next one.

    Local layers read what lies in the current chunk: half a chunk on average, once a sequence is beyond its first.
    """
    inside = context if text.chunk is None or context <= text.chunk else (text.chunk + 1) / 2
    tokens = len(text.global_layers) * context + len(text.local_layers) * inside
    return tokens * row_bytes(text, itemsize)
