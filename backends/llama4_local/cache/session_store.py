"""The pinned pages of sessions: keys and values of the global layers, up to a chunk edge.

At a multiple of the chunk no chunk-local layer attends to earlier tokens, so the global layers are enough to go on
from there; tokens beyond the edge are computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from llama4_local.weights.e4m3 import words
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.prefix_cache import PrefixCache

_PART_BYTES = 4 << 20  # of keys, and as many of values, that are copied between two steps


@dataclass(frozen=True, slots=True)
class SessionState:
    """Keys and values of the global layers for the first tokens of a prompt.

    Args:
        keys: [global layers, tokens, kv_heads, head_dim], on the CPU.
        values: As `keys`.
    """

    keys: Tensor
    values: Tensor


class PageAccess(Protocol):
    """Reads and writes pages of global layers, all their heads, on the host; e4m3 as bytes."""

    def read(self, layer: int, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return keys and values, [pages, page_size, kv_heads, head_dim]."""
        ...

    def write(self, layer: int, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Write them."""
        ...


@dataclass(frozen=True, slots=True)
class CachePages:
    """Pages of a cache that has all heads."""

    cache: KvCache

    def read(self, layer: int, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See `PageAccess.read`."""
        keys, values = (words(stored)[layer, list(pages)].cpu() for stored in self.cache.storage["global"])
        return keys, values

    def write(self, layer: int, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """See `PageAccess.write`."""
        for stored, whole in zip(self.cache.storage["global"], (keys, values), strict=True):
            words(stored)[layer, list(pages)] = whole.to(stored.device)


class SessionCopy:
    """A copy between pages and the host in small parts, each made between two steps, so that no step waits for it.

    Args:
        state: The tensors on the host.
        pages: The pages, in the order of the tokens.
        access: Reads and writes the pages.
        size: Tokens of a page.
        writes: Whether pages are written, else read.
    """

    def __init__(self, state: SessionState, pages: list[int], access: PageAccess, *, size: int, writes: bool) -> None:
        self.state = state
        self._access = access
        self._size = size
        self._writes = writes
        page_bytes = max(1, state.keys[:1, :size].nbytes)  # none where there are no keys
        count = max(1, _PART_BYTES // page_bytes)
        self._parts = [
            (layer, start, pages[start : start + count])
            for layer in range(state.keys.shape[0])
            for start in range(0, len(pages), count)
        ]

    def advance(self) -> bool:
        """Copy the next part; return whether more are left."""
        if self._parts:
            layer, start, pages = self._parts.pop()
            size = self._size
            keys, values = (
                words(host)[layer, start * size : (start + len(pages)) * size].unflatten(0, (len(pages), size))
                for host in (self.state.keys, self.state.values)
            )
            if self._writes:
                self._access.write(layer, pages, keys, values)
            else:
                for host, read in zip((keys, values), self._access.read(layer, pages), strict=True):
                    host.copy_(read)
        return bool(self._parts)


class SessionStore:
    """The pages that sessions pin, each under its session's key.

    Args:
        cache: The tensors.
        prefixes: Finds the pages by their hashes.
        access: Reads and writes the pages where the cache has a part of the heads only.
        parts: How many caches have a part of the heads.
    """

    def __init__(
        self, cache: KvCache, prefixes: PrefixCache, access: PageAccess | None = None, *, parts: int = 1
    ) -> None:
        self._cache = cache
        self._access = access or CachePages(cache)
        self._parts = parts
        self._prefixes = prefixes
        self._pinned: dict[object, list[int]] = {}

    @property
    def pages(self) -> int:
        """Pages that sessions pin, shared ones counted for each."""
        return sum(len(pages) for pages in self._pinned.values())

    def pin(self, key: object, hashes: Sequence[bytes]) -> None:
        """Pin the cached pages of these hashes, in place of those pinned under the key before."""
        pages = self._prefixes.pin(hashes)
        self.unpin(key)
        self._pinned[key] = pages

    def move(self, source: object, key: object) -> None:
        """Pin under `key` the pages that are pinned under `source`, in place of its own."""
        if source in self._pinned:
            self.unpin(key)
            self._pinned[key] = self._pinned.pop(source)

    def fork(self, key: object, twin: object) -> None:
        """Pin under `twin` the pages that are pinned under `key`."""
        pages = list(self._pinned.get(key, ()))
        self._prefixes.share(pages)
        self._pinned[twin] = pages

    def unpin(self, key: object) -> None:
        """Release the pages of a key."""
        self._prefixes.unpin(self._pinned.pop(key, []))

    def read(self, key: object, reader: object) -> SessionCopy:
        """Return the copy of a key's pages to the host, up to the last chunk edge (without chunks: the last full page).

        Args:
            key: The session.
            reader: A key of its own under which the pages are pinned meanwhile, whatever becomes of the session.
        """
        shape = self._cache.shape
        per_edge = 1 if shape.chunk is None else shape.chunk // shape.page_size
        pages = self._pinned.get(key, [])
        pages = pages[: len(pages) // per_edge * per_edge]
        keys, values = (
            torch.empty(self._host_shape(of, len(pages)), dtype=of.dtype) for of in self._cache.storage["global"]
        )
        self._prefixes.share(pages)
        self._pinned[reader] = pages
        return SessionCopy(SessionState(keys, values), pages, self._access, size=shape.page_size, writes=False)

    def write(self, key: object, hashes: Sequence[bytes], state: SessionState) -> SessionCopy:
        """Return the copy of keys and values into pages of their own, pinned under a key.

        Raises:
            InvalidRequest: The state does not fit the cache's layers or dtype.
            Overloaded: There is no room for it.
        """
        shape = self._cache.shape
        for tensor, stored in zip((state.keys, state.values), self._cache.storage["global"], strict=True):
            expected = self._host_shape(stored, len(hashes))
            if tuple(tensor.shape) != expected or tensor.dtype != stored.dtype:
                raise InvalidRequest(
                    f"The session holds {tensor.dtype} {tuple(tensor.shape)} and this backend's cache takes "
                    f"{stored.dtype} {expected}; restore it with the dtype= and cache_dtype= that it was saved with."
                )
        pages = self._prefixes.adopt(hashes)
        self._pinned[key] = pages
        return SessionCopy(state, pages, self._access, size=shape.page_size, writes=True)

    def _host_shape(self, stored: Tensor, pages: int) -> tuple[int, ...]:
        """Return the shape of all heads' keys or values in so many pages."""
        layers, _, size, heads, width = stored.shape
        return layers, pages * size, heads * self._parts, width
