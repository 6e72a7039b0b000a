"""How large a cache to make."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from llama4_local.kv_cache import cache_bytes
from llama4_local.pages import CacheShape, default_page_size
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from llama4_local.config import TextConfig

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]i?)?b?", re.IGNORECASE)


def size_in_bytes(size: int | str) -> int:
    """Return the bytes that a number or a string such as `16GB` or `512 MiB` means.

    Raises:
        InvalidRequest: It means none, or less than one.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        count = size
    else:
        found = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
        if found is None:
            raise InvalidRequest(f"A size of memory is a number of bytes or a string like '16GB', got {size!r}.")
        count = int(float(found[1]) * _UNITS[(found[2] or "").lower()])
    if count < 1:
        raise InvalidRequest(f"A size of memory is at least one byte, got {size!r}.")
    return count


def default_memory() -> int:
    """Return the bytes of memory that the cache may take when nothing is said: a quarter of what is free."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not known on this platform
        free = 4 * 2**30
    return free // 4


def cache_shape(text: TextConfig, *, context: int, sequences: int, memory: int, itemsize: int) -> CacheShape:
    """Return the cache in which `sequences` equally long sequences are as long as memory allows.

    One sequence alone may use all pages of whole sequences, and always a full chunk.

    Args:
        text: The decoder's shape.
        context: Most tokens of a sequence.
        sequences: Sequences under way at once.
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
