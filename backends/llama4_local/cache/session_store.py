"""What a session keeps of a prompt: keys and values of the global layers, up to a chunk edge.

At a multiple of the chunk no chunk-local layer looks back, so the global layers are all that is needed to go
on from there; what lies beyond the edge is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4_local.weights.e4m3 import words
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.prefix_cache import PrefixCache


@dataclass(frozen=True, slots=True)
class SessionState:
    """Keys and values of the global layers for the first tokens of a prompt.

    Args:
        keys: [global layers, tokens, kv_heads, head_dim], on the CPU.
        values: As `keys`.
    """

    keys: Tensor
    values: Tensor


class SessionStore:
    """The pages that sessions hold on to, each under its session's key.

    Args:
        cache: The tensors.
        prefixes: Where kept pages are found by their names.
    """

    def __init__(self, cache: KvCache, prefixes: PrefixCache) -> None:
        self._cache = cache
        self._prefixes = prefixes
        self._held: dict[object, list[int]] = {}

    @property
    def pages(self) -> int:
        """Pages that sessions hold, shared ones counted for each."""
        return sum(len(pages) for pages in self._held.values())

    def hold(self, key: object, names: Sequence[bytes]) -> None:
        """Hold on to the kept pages of these names, instead of what was held under the key before."""
        pages = self._prefixes.pin(names)
        self.drop(key)
        self._held[key] = pages

    def fork(self, key: object, twin: object) -> None:
        """Hold under `twin` what is held under `key`."""
        pages = list(self._held.get(key, ()))
        self._prefixes.share(pages)
        self._held[twin] = pages

    def drop(self, key: object) -> None:
        """Hold nothing under this key any more."""
        self._prefixes.unpin(self._held.pop(key, []))

    def read(self, key: object) -> SessionState:
        """Return what is held under a key, up to the last chunk edge (without chunks: the last full page)."""
        pages = self._held.get(key, [])
        shape = self._cache.shape
        per_edge = 1 if shape.chunk is None else shape.chunk // shape.page_size
        pages = pages[: len(pages) // per_edge * per_edge]
        keys, values = (
            words(tensor)[:, pages].flatten(1, 2).cpu().view(tensor.dtype) for tensor in self._cache.storage["global"]
        )
        return SessionState(keys, values)

    def write(self, key: object, names: Sequence[bytes], state: SessionState) -> None:
        """Put a state back under the names of its pages, and hold it.

        Raises:
            InvalidRequest: The state does not fit the cache's layers or type.
            Overloaded: There is no room for it.
        """
        shape = self._cache.shape
        for tensor, stored in zip((state.keys, state.values), self._cache.storage["global"], strict=True):
            wanted = (stored.shape[0], len(names) * shape.page_size, *stored.shape[3:])
            if tuple(tensor.shape) != wanted or tensor.dtype != stored.dtype:
                raise InvalidRequest(
                    f"The session holds {tensor.dtype} {tuple(tensor.shape)} and this backend's cache takes "
                    f"{stored.dtype} {wanted}; restore it with the dtype= and cache_dtype= that it was saved with."
                )
        pages = self._prefixes.adopt(names)
        self._held[key] = pages
        for tensor, stored in zip((state.keys, state.values), self._cache.storage["global"], strict=True):
            words(stored)[:, pages] = words(tensor).unflatten(1, (len(names), shape.page_size)).to(stored.device)
