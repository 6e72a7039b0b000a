"""Attention over the paged cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from llama4_local.weights.e4m3 import rounded, widened, words

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.cache.page_table import PoolName
    from llama4_local.ops.batch import Batch, PoolTable, Segment

_RATIO, _SLACK = 1.25, 64  # contexts up to so many times, plus so many tokens, longer share a padded group
_TILE = 8  # queries that attend together where a row has one result in all steps


def write(layer: LayerCache, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Write keys and values [rows, kv_heads, head_dim] to their slots; in e4m3 values beyond ±448 become ±448."""
    for cached, rows in ((layer.keys, keys), (layer.values, values)):
        words(cached).flatten(0, 1).index_copy_(0, slots, words(rounded(rows, cached.dtype)))


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Sequences that add one token and attend together, their keys padded to the longest of them.

    Args:
        rows: Their places among the decoding sequences; None where the group is all of them, in order.
        count: How many they are.
        longest: Keys of the longest.
        first: The first of consecutive pages, which are read in place; None where pages are gathered.
        pages: [count · pages of the longest], int64: the pages to gather.
        seen: [count, 1, 1, longest], bool: keys that exist; None where all have the same number.
    """

    rows: list[int] | None
    count: int
    longest: int
    first: int | None
    pages: Tensor
    seen: Tensor | None


class DecodePlans:
    """The groups of a step's decoding sequences in each pool, made in its first layer and kept for the others."""

    def __init__(self) -> None:
        self._plans: dict[PoolName, tuple[PoolTable, list[DecodeGroup]]] = {}

    def of(self, pool: PoolName, table: PoolTable, places: list[int], page_size: int) -> list[DecodeGroup]:
        """Return the groups of the sequences at `places` of the batch that a table belongs to."""
        known = self._plans.get(pool)
        if known is None or known[0] is not table:
            known = self._plans[pool] = table, _decode_groups(table, places, page_size)
        return known[1]

    def decode(self, queries: Tensor, layer: LayerCache, table: PoolTable, places: list[int]) -> Tensor:
        """See `Decode`."""
        return _decode(queries, layer, self.of(layer.pool, table, places, layer.keys.shape[1]))


class Decode(Protocol):
    """Attends from the sequences that add one token."""

    def __call__(self, queries: Tensor, layer: LayerCache, table: PoolTable, places: list[int]) -> Tensor:
        """Return [sequences, heads·head_dim] of queries [sequences, heads, head_dim], at some places of the batch."""
        ...


def paged_attention(queries: Tensor, layer: LayerCache, batch: Batch, decode: Decode | None = None) -> Tensor:
    """See `Ops.attention`. Sequences that add one token attend in one batch, the others one by one."""
    table = batch.tables[layer.pool]
    decode = decode or DecodePlans().decode
    single = [i for i, segment in enumerate(batch.segments) if segment.length == 1]
    if len(single) == len(batch.segments):
        return decode(queries, layer, table, single)
    out = torch.empty_like(queries).flatten(1)
    for i, segment in enumerate(batch.segments):
        if segment.length > 1:
            rows = slice(segment.start, segment.start + segment.length)
            out[rows] = _prefill(queries[rows], layer, table, i, segment)
    if single:
        rows = torch.tensor([batch.segments[i].start for i in single], device=queries.device)
        out[rows] = decode(queries[rows], layer, table, single)
    return out


def tiled_attention(queries: Tensor, layer: LayerCache, batch: Batch) -> Tensor:
    """Return `paged_attention`, a row of which is the same bits in any step that computes it.

    A query attends within the tile of its position, `_TILE` of them over keys up to the tile's end, whether the others
    of the tile are there or not: the products are those of every other step.
    """
    table = batch.tables[layer.pool]
    out = torch.empty_like(queries).flatten(1)
    for i, segment in enumerate(batch.segments):
        rows = slice(segment.start, segment.start + segment.length)
        out[rows] = _in_tiles(queries[rows], layer, table, i)
    return out


def _in_tiles(queries: Tensor, layer: LayerCache, table: PoolTable, i: int) -> Tensor:
    (count, heads, width), context = queries.shape, table.contexts[i]
    begin, end = (context - count) // _TILE, -(-context // _TILE)
    first, pages = _pages(table, [i], -(-context // layer.keys.shape[1]))
    kept = _cached(layer, 1, context, first, pages, queries.dtype)
    keys, values = (pad(cached, (0, 0, 0, end * _TILE - context)) for cached in kept)
    tiles = queries.new_zeros((end - begin, _TILE, heads, width))
    rows = slice(context - count - begin * _TILE, context - begin * _TILE)
    tiles.flatten(0, 1)[rows] = queries
    # As in decoding, the query heads of a group become the query rows of their key head.
    grouped = tiles.unflatten(2, (keys.shape[1], -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    seen = queries.new_ones((_TILE, end * _TILE), dtype=torch.bool).tril((end - 1) * _TILE)
    seen = seen.repeat(heads // keys.shape[1], 1)
    parts: list[Tensor] = []
    for place, tile in enumerate(grouped, begin + 1):
        length = place * _TILE
        near = keys[:, :, :length], values[:, :, :length]
        parts.append(scaled_dot_product_attention(tile[None], *near, seen[:, -length:].contiguous()))
    done = torch.cat(parts).unflatten(2, (-1, _TILE)).permute(0, 3, 1, 2, 4)  # tiles, _TILE, kv heads, group, width
    return done.flatten(2).flatten(0, 1)[rows]


def _decode(queries: Tensor, layer: LayerCache, groups: list[DecodeGroup]) -> Tensor:
    """Attend from one token of each sequence, [sequences, heads, head_dim]."""
    if groups[0].rows is None:
        return _decode_padded(queries, layer, groups[0])
    out = torch.empty_like(queries).flatten(1)
    for group in groups:
        out[group.rows] = _decode_padded(queries[group.rows], layer, group)
    return out


def _decode_groups(table: PoolTable, places: list[int], page_size: int) -> list[DecodeGroup]:
    groups = _similar_lengths([table.contexts[i] for i in places])
    return [
        _decode_group(table, [places[row] for row in rows], page_size, rows if len(groups) > 1 else None)
        for rows in groups
    ]


def _decode_group(table: PoolTable, places: list[int], page_size: int, rows: list[int] | None) -> DecodeGroup:
    contexts = [table.contexts[i] for i in places]
    longest = max(contexts)
    first, pages = _pages(table, places, -(-longest // page_size))
    seen = None
    if min(contexts) < longest:
        lengths = table.context_lengths[places][:, None]
        seen = (torch.arange(longest, device=lengths.device) < lengths)[:, None, None]
    return DecodeGroup(rows, len(places), longest, first, pages, seen)


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


def _decode_padded(queries: Tensor, layer: LayerCache, group: DecodeGroup) -> Tensor:
    """Return `_decode` of one group."""
    keys, values = _cached(layer, group.count, group.longest, group.first, group.pages, queries.dtype)
    if group.seen is not None:
        unseen = ~group.seen.transpose(-1, -2)
        for cached in (keys, values):  # stale values in a reused page may be NaN, which no mask stops
            cached.masked_fill_(unseen, 0)
    # The query heads of a group become the query rows of their key head, so that keys are not repeated.
    grouped = queries.view(group.count, keys.shape[1], -1, queries.shape[-1])
    out = scaled_dot_product_attention(grouped, keys, values, group.seen)
    return out.reshape(group.count, queries.shape[1] * queries.shape[2])


def _prefill(queries: Tensor, layer: LayerCache, table: PoolTable, i: int, segment: Segment) -> Tensor:
    """Attend from several tokens of one sequence, [tokens, heads, head_dim]."""
    context = table.contexts[i]
    first, pages = _pages(table, [i], -(-context // layer.keys.shape[1]))
    keys, values = _cached(layer, 1, context, first, pages, queries.dtype)
    rows = queries.transpose(0, 1)[None]
    seen = context - segment.length
    mask = None
    if seen:
        mask = queries.new_ones((segment.length, context), dtype=torch.bool).tril(seen)
    out = scaled_dot_product_attention(rows, keys, values, mask, is_causal=not seen, enable_gqa=True)
    return out[0].transpose(0, 1).flatten(1)


def _pages(table: PoolTable, places: list[int], width: int) -> tuple[int | None, Tensor]:
    """Return the first `width` pages of sequences, and their first one where those of one follow one another."""
    if len(places) > 1:
        return None, table.pages[places, :width].flatten()
    pages = table.pages[places[0], :width]
    first = int(pages[0])
    return (first if pages.tolist() == list(range(first, first + width)) else None), pages


def _cached(
    layer: LayerCache, count: int, tokens: int, first: int | None, pages: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return keys and values of each sequence's first `tokens`, [count, kv_heads, tokens, head_dim].

    They are copies, except for consecutive pages of one sequence, which are read in place unless the cache has another
    type.
    """
    keys, values = (
        widened(_trimmed(_paged(cached, first, pages), count, tokens), dtype) for cached in (layer.keys, layer.values)
    )
    return keys, values


def _paged(cached: Tensor, first: int | None, pages: Tensor) -> Tensor:
    if first is not None:
        return cached[first : first + len(pages)]
    return words(cached).index_select(0, pages).view(cached.dtype)


def _trimmed(paged: Tensor, count: int, tokens: int) -> Tensor:
    return paged.view(count, -1, *paged.shape[2:])[:, :tokens].transpose(1, 2)
