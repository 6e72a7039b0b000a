"""Attention over the paged cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.batch import Batch, PoolTable, Segment
    from llama4_local.kv_cache import LayerCache


def write(layer: LayerCache, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Write keys and values [rows, kv_heads, head_dim] to their slots."""
    layer.keys.flatten(0, 1).index_copy_(0, slots, keys.to(layer.keys.dtype))
    layer.values.flatten(0, 1).index_copy_(0, slots, values.to(layer.values.dtype))


def paged_attention(queries: Tensor, layer: LayerCache, batch: Batch) -> Tensor:
    """See `Ops.attention`. Sequences that add one token go together, the others one by one."""
    table = batch.tables[layer.pool]
    single = [i for i, segment in enumerate(batch.segments) if segment.length == 1]
    if len(single) == len(batch.segments):
        return _decode(queries, layer, table, single)
    out = torch.empty_like(queries).flatten(1)
    for i, segment in enumerate(batch.segments):
        if segment.length > 1:
            rows = slice(segment.start, segment.start + segment.length)
            out[rows] = _prefill(queries[rows], layer, table, i, segment)
    if single:
        rows = torch.tensor([batch.segments[i].start for i in single], device=queries.device)
        out[rows] = _decode(queries[rows], layer, table, single)
    return out


def _decode(queries: Tensor, layer: LayerCache, table: PoolTable, chosen: list[int]) -> Tensor:
    """Attend from one token of each chosen sequence, [sequences, heads, head_dim]."""
    longest = max(table.contexts[i] for i in chosen)
    pages = table.pages[chosen, : -(-longest // layer.keys.shape[1])]
    keys, values = (_gather(cached, pages, longest, queries.dtype) for cached in (layer.keys, layer.values))
    count, heads, head_dim = queries.shape
    mask = None
    if min(table.contexts[i] for i in chosen) < longest:
        mask = torch.arange(longest, device=queries.device) < table.context_lengths[chosen][:, None]
        for cached in (keys, values):  # what a page's last holder left there may be NaN, which no mask stops
            cached.masked_fill_(~mask[:, None, :, None], 0)
        mask = mask[:, None, None]
    # The query heads of a group become the query rows of their key head: nothing is repeated.
    grouped = queries.view(count, keys.shape[1], -1, head_dim)
    out = scaled_dot_product_attention(grouped, keys, values, mask)
    return out.reshape(count, heads * head_dim)


def _prefill(queries: Tensor, layer: LayerCache, table: PoolTable, i: int, segment: Segment) -> Tensor:
    """Attend from several tokens of one sequence, [tokens, heads, head_dim]."""
    context = table.contexts[i]
    pages = table.pages[i : i + 1, : -(-context // layer.keys.shape[1])]
    keys, values = (_gather(cached, pages, context, queries.dtype) for cached in (layer.keys, layer.values))
    rows = queries.transpose(0, 1)[None]
    seen = context - segment.length
    mask = None
    if seen:
        mask = queries.new_ones((segment.length, context), dtype=torch.bool).tril(seen)
    out = scaled_dot_product_attention(rows, keys, values, mask, is_causal=not seen, enable_gqa=True)
    return out[0].transpose(0, 1).flatten(1)


def _gather(cached: Tensor, pages: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
    """Return a copy of each sequence's first `tokens`, [sequences, kv_heads, tokens, head_dim]."""
    found = cached[pages].flatten(1, 2)[:, :tokens]
    return found.transpose(1, 2).to(dtype)
