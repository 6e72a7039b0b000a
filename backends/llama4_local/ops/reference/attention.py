"""Attention over the paged cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention

from llama4_local.weights.e4m3 import rounded, widened, words

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import Batch, PoolTable, Segment

_RATIO, _SLACK = 1.25, 64  # contexts up to so many times, plus so many tokens, longer share a padded group


def write(layer: LayerCache, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Write keys and values [rows, kv_heads, head_dim] to their slots; in e4m3 values beyond ±448 become ±448."""
    for cached, rows in ((layer.keys, keys), (layer.values, values)):
        words(cached).flatten(0, 1).index_copy_(0, slots, words(rounded(rows, cached.dtype)))


def paged_attention(queries: Tensor, layer: LayerCache, batch: Batch) -> Tensor:
    """See `Ops.attention`. Sequences that add one token attend in one batch, the others one by one."""
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


def _decode(queries: Tensor, layer: LayerCache, table: PoolTable, places: list[int]) -> Tensor:
    """Attend from one token of each sequence at `places` of the batch, [sequences, heads, head_dim]."""
    groups = _similar_lengths([table.contexts[i] for i in places])
    if len(groups) == 1:
        return _decode_padded(queries, layer, table, places)
    out = torch.empty_like(queries).flatten(1)
    for group in groups:
        out[group] = _decode_padded(queries[group], layer, table, [places[i] for i in group])
    return out


def _similar_lengths(contexts: list[int]) -> list[list[int]]:
    """Return the indices of contexts in groups of similar length, so that padding costs little."""
    order = sorted(range(len(contexts)), key=contexts.__getitem__)
    groups = [[order[0]]]
    for place in order[1:]:
        if contexts[place] <= contexts[groups[-1][0]] * _RATIO + _SLACK:
            groups[-1].append(place)
        else:
            groups.append([place])
    return [sorted(group) for group in groups]


def _decode_padded(queries: Tensor, layer: LayerCache, table: PoolTable, places: list[int]) -> Tensor:
    """Return `_decode` of sequences, their keys padded to the longest of them."""
    contexts = [table.contexts[i] for i in places]
    longest = max(contexts)
    keys, values = _cached(layer, table, places, longest, queries.dtype)
    count, heads, head_dim = queries.shape
    mask = None
    if min(contexts) < longest:
        mask = torch.arange(longest, device=queries.device) < table.context_lengths[places][:, None]
        for cached in (keys, values):  # stale values in a reused page may be NaN, which no mask stops
            cached.masked_fill_(~mask[:, None, :, None], 0)
        mask = mask[:, None, None]
    # The query heads of a group become the query rows of their key head, so that keys are not repeated.
    grouped = queries.view(count, keys.shape[1], -1, head_dim)
    out = scaled_dot_product_attention(grouped, keys, values, mask)
    return out.reshape(count, heads * head_dim)


def _prefill(queries: Tensor, layer: LayerCache, table: PoolTable, i: int, segment: Segment) -> Tensor:
    """Attend from several tokens of one sequence, [tokens, heads, head_dim]."""
    context = table.contexts[i]
    keys, values = _cached(layer, table, [i], context, queries.dtype)
    rows = queries.transpose(0, 1)[None]
    seen = context - segment.length
    mask = None
    if seen:
        mask = queries.new_ones((segment.length, context), dtype=torch.bool).tril(seen)
    out = scaled_dot_product_attention(rows, keys, values, mask, is_causal=not seen, enable_gqa=True)
    return out[0].transpose(0, 1).flatten(1)


def _cached(
    layer: LayerCache, table: PoolTable, places: list[int], tokens: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return keys and values of each sequence's first `tokens`, [sequences, kv_heads, tokens, head_dim].

    They are copies, except for one sequence with consecutive pages in the cache, which is read in place unless the
    cache has another type.
    """
    width = -(-tokens // layer.keys.shape[1])
    pages = table.pages[places[0], :width] if len(places) == 1 else table.pages[places, :width].flatten()
    first = int(pages[0])
    if len(places) == 1 and pages.tolist() == list(range(first, first + width)):
        paged = (cached[first : first + width] for cached in (layer.keys, layer.values))
    else:
        paged = (words(cached).index_select(0, pages).view(cached.dtype) for cached in (layer.keys, layer.values))
    trimmed = (part.view(len(places), -1, *part.shape[2:])[:, :tokens].transpose(1, 2) for part in paged)
    keys, values = (widened(part, dtype) for part in trimmed)
    return keys, values
