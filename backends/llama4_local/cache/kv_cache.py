"""The tensors of the paged key/value cache; `pages.py` says who holds which page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llama4_local.weights.e4m3 import words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from llama4_local.cache.page_table import CacheShape, PageCopy, PoolName
    from llama4_local.config.model import TextConfig
    from llama4_local.config.options import CacheType


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's keys and values.

    Args:
        keys: [pages + 1, page_size, kv_heads, head_dim].
        values: As `keys`.
        pool: Whose pages these are.
    """

    keys: Tensor
    values: Tensor
    pool: PoolName


@dataclass(frozen=True, slots=True)
class KvCache:
    """Keys and values of all layers, allocated once and never resized.

    Args:
        shape: How it is divided.
        layers: One view for each layer of the network.
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
            shape: How many pages there are, and how large.
            dtype: Type of its numbers: that of the activations, or float8_e4m3fn.
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
        """Copy pages, in all layers of their pool, as `SequencePages.extend` asks."""
        for copy in copies:
            for tensor in map(words, self.storage[copy.pool]):
                tensor[:, copy.target] = tensor[:, copy.source]


def cache_dtype_of(wanted: CacheType, activations: torch.dtype) -> torch.dtype:
    """Return the type of a cache's numbers.

    Args:
        wanted: See `LocalBackend`.
        activations: The type that the model computes in.
    """
    return torch.float8_e4m3fn if wanted == "fp8" else activations


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
