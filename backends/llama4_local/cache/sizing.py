"""The size of the cache for a number of sequences and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.cache.kv_cache import cache_bytes
from llama4_local.cache.page_table import CacheShape, default_page_size
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from llama4_local.config.model import TextConfig


def cache_shape(text: TextConfig, *, context: int, sequences: int, memory: int, itemsize: int) -> CacheShape:
    """Return the cache in which `sequences` equally long sequences are as long as memory allows.

    One sequence alone may use all pages of whole sequences, and always a full chunk.

    Args:
        text: The decoder's shape.
        context: Most tokens of a sequence.
        sequences: Sequences that run at once.
        memory: Bytes for the cache.
        itemsize: Bytes of one number in the cache.

    Raises:
        InvalidRequest: Not even one sequence of one page fits.
    """
    page = default_page_size(text.chunk)

    def shaped(tokens: int) -> CacheShape:
        bare = CacheShape(0, 0, page, text.chunk)
        local = max(sequences * bare.local_pages_for(tokens), bare.local_pages_for(context))
        return CacheShape(sequences * bare.pages_for(tokens), local, page, text.chunk)

    fewest, most = 0, -(-context // page)  # pages of each sequence
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if cache_bytes(text, shaped(middle * page), itemsize) <= memory:
            fewest = middle
        else:
            most = middle - 1
    if fewest:
        return shaped(fewest * page)
    if sequences == 1:
        least = cache_bytes(text, shaped(page), itemsize)
        raise InvalidRequest(
            f"The cache needs at least {least:,} bytes and may take {memory:,}; raise memory= or lower context=."
        )
    return cache_shape(text, context=context, sequences=1, memory=memory, itemsize=itemsize)
