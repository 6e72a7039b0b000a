"""The tensors of the paged key/value cache; page tables are in `page_table.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llama4_local.weights.e4m3 import words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from llama4_local.cache.page_table import CacheShape, PageCopy, PoolName
    from llama4_local.config.formats import CacheType
    from llama4_local.config.model import TextConfig


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's keys and values.

    Args:
        keys: [pages + 1, page_size, kv_heads, head_dim].
        values: As `keys`.
        pool: The pool of the pages.
    """

    keys: Tensor
    values: Tensor
    pool: PoolName


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class KvCache:
    """Keys and values of all layers, allocated once and never resized.

    Args:
        shape: Its division into pages.
        layers: One view for each layer of the network.
        storage: Keys and values of each pool, [layers in pool, pages + 1, page_size, kv_heads, head_dim].
    """

    shape: CacheShape
    layers: tuple[LayerCache, ...]
    storage: dict[PoolName, tuple[Tensor, Tensor]]

    @classmethod
    def allocate(
        cls, text: TextConfig, shape: CacheShape, *, dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> KvCache:
        """Allocate both pools: keys and values of [layers in pool, pages + 1, page_size, kv_heads, head_dim].

        Args:
            text: The decoder's shape.
            shape: Its division into pages.
            dtype: That of the activations, or float8_e4m3fn.
            device: Torch device.
        """
        row = (shape.page_size, text.kv_heads, text.head_dim)
        sizes: dict[PoolName, tuple[int, int]] = {
            "global": (len(text.global_layers), shape.global_pages + 1),
            "local": (len(text.local_layers), shape.local_pages + 1),
        }
        storage: dict[PoolName, tuple[Tensor, Tensor]] = {
            pool: (
                torch.zeros((*size, *row), dtype=dtype, device=device),
                torch.zeros((*size, *row), dtype=dtype, device=device),
            )
            for pool, size in sizes.items()
        }
        return cls(shape, tuple(_view(storage, text, layer) for layer in range(text.layers)), storage)

    @property
    def bytes(self) -> int:
        """Bytes of both pools."""
        return sum(tensor.nbytes for pair in self.storage.values() for tensor in pair)

    def copy(self, copies: Iterable[PageCopy]) -> None:
        """Copy pages in all layers of their pool; see `SequencePages.extend`."""
        for copy in copies:
            for tensor in map(words, self.storage[copy.pool]):
                tensor[:, copy.target] = tensor[:, copy.source]


def cache_dtype_of(cache_type: CacheType, activations: torch.dtype) -> torch.dtype:
    """Return the dtype of keys and values.

    Args:
        cache_type: The option `cache_dtype` of `LocalBackend`.
        activations: The dtype that the model computes in.
    """
    return torch.float8_e4m3fn if cache_type == "fp8" else activations


def cache_bytes(text: TextConfig, shape: CacheShape, itemsize: int) -> int:
    """Return the bytes that `KvCache.allocate` takes, without allocating."""
    row = 2 * shape.page_size * text.kv_heads * text.head_dim * itemsize
    pages = len(text.global_layers) * (shape.global_pages + 1) + len(text.local_layers) * (shape.local_pages + 1)
    return row * pages


def _view(storage: dict[PoolName, tuple[Tensor, Tensor]], text: TextConfig, layer: int) -> LayerCache:
    pool: PoolName = "local" if text.is_local(layer) else "global"
    place = (text.local_layers if pool == "local" else text.global_layers).index(layer)
    keys, values = storage[pool]
    return LayerCache(keys[place], values[place], pool)
