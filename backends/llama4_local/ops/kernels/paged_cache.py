"""The paged cache as attention kernels take it: one named tuple of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llama4_local.ops.kernels.launch import contiguous, require

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import PoolTable

LOG2E = 1.4426950408889634  # kernels take powers of two, which the hardware has


class PagedCache(NamedTuple):
    """One layer's keys and values, and the pages of each sequence of a step.

    No field is called `values`: Triton's own tuples have an attribute of that name.

    Args:
        keys: [pages, page_size, kv_heads, head_dim], bf16 or e4m3.
        cached_values: As `keys`.
        starts: [segments + 1], int64: first row of each sequence.
        pages: [segments, width], int64.
        contexts: [segments], int64: keys that each sequence's last token attends to.
    """

    keys: Tensor
    cached_values: Tensor
    starts: Tensor
    pages: Tensor
    contexts: Tensor


def paged_cache(queries: Tensor, layer: LayerCache, starts: Tensor, table: PoolTable, out: Tensor) -> PagedCache:
    """Return the kernels' argument for a layer's cache; check the tensors of an attention.

    Raises:
        InvalidRequest: A head size that is no power of two from 16 on, or a tensor that is not contiguous.
    """
    dim = queries.shape[-1]
    require(dim & (dim - 1) == 0 and dim >= 16, f"head_dim must be a power of two from 16 on, got {dim}")
    contiguous(queries=queries, keys=layer.keys, values=layer.values, starts=starts, pages=table.pages, out=out)
    return PagedCache(layer.keys, layer.values, starts, table.pages, table.context_lengths)
