"""Decode attention whose programs share the blocks of all sequences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernel_inputs import ROUNDED, activations, error
from kernels.interpreted.arrival_orders import shuffled_programs
from kernels.interpreted.test_attention import DIM, cache, layout, wide
from llama4_local.cache.kv_cache import LayerCache
from llama4_local.ops.batch import Batch
from llama4_local.ops.kernels.attention_decode import attention_decode
from llama4_local.ops.kernels.tiles import DecodeTile
from llama4_local.ops.reference.functions import ReferenceOps
from long_runs import only_long, thinned

E4M3 = torch.float8_e4m3fn
UNEVEN = [(1, 100), (1, 1), (3, 20), (1, 16), (1, 17)]  # a prompt in the middle
SHARES = [(4, 1), (1, 1), (7, 2), (40, 1), (3, 50)]  # programs, and the fewest blocks of each


def attended(queries: Tensor, layer: LayerCache, batch: Batch, programs: int, least: int, *, splits: int = 1) -> Tensor:
    out = torch.full((len(queries), queries[0].numel()), math.nan, dtype=torch.bfloat16)
    tile = DecodeTile(splits, 16, 4, 1, least, programs=programs)
    attention_decode(queries, layer, batch.starts, batch.tables["global"], tile, out)
    return out


def check(sequences: list[tuple[int, int]], programs: int, least: int, dtype: torch.dtype, kv_heads: int = 2) -> None:
    layer = cache(sum(-(-context // 8) for _, context in sequences), 8, kv_heads, dtype)
    batch = layout(sequences, 8)
    rows = sum(count for count, _ in sequences)
    single = [int(start) for start, (count, _) in zip(batch.starts, sequences, strict=False) if count == 1]
    queries = activations(rows, 2 * kv_heads, DIM)
    expected = ReferenceOps().attention(queries.double(), wide(layer), batch)

    got = attended(queries, layer, batch, programs, least)

    assert error(got[single], expected[single]) < 1.5 * ROUNDED
    others = [row for row in range(rows) if row not in single]
    assert got[others].isnan().all()


@pytest.mark.parametrize("dtype", thinned([torch.bfloat16, E4M3], 2), ids=str)
@pytest.mark.parametrize(("programs", "least"), thinned(SHARES, 5))
def test_shared_blocks_give_what_the_twin_gives(programs: int, least: int, dtype: torch.dtype) -> None:
    check(UNEVEN, programs, least, dtype)


def test_more_parts_of_a_head_than_are_merged_together() -> None:
    layer, batch, queries = cache(70, 8, 1), layout([(1, 560)], 8), activations(1, 2, DIM)
    layer.keys[batch.tables["global"].pages[0, -4:]] *= 4  # the largest scores are among the parts that come last
    expected = ReferenceOps().attention(queries.double(), wide(layer), batch)
    assert error(attended(queries, layer, batch, 35, 1), expected) < 1.5 * ROUNDED


@only_long("interprets attention of many sequences")
@pytest.mark.parametrize(
    "sequences", [[(1, 1)] * 65, [(2, 2)] * 64 + [(1, 40)], [(1, 90)] + [(2, 2)] * 130 + [(1, 20)]]
)
def test_shared_blocks_of_more_sequences_than_are_read_together(sequences: list[tuple[int, int]]) -> None:
    check(sequences, 5, 1, torch.bfloat16, kv_heads=1)


@only_long("interprets a launch again and again")
def test_shared_blocks_give_the_same_bits_in_any_order_of_the_programs() -> None:
    layer, batch, queries = cache(24, 8), layout(UNEVEN, 8), activations(7, 4, DIM)
    expected = attended(queries, layer, batch, 6, 1).view(torch.int16)
    for seed in range(50):
        with shuffled_programs(seed):
            assert torch.equal(attended(queries, layer, batch, 6, 1).view(torch.int16), expected)


def test_a_single_share_is_a_single_split() -> None:
    layer, batch, queries = cache(3, 8, 1), layout([(1, 20)], 8), activations(1, 5, DIM)
    together = attended(queries, layer, batch, 1, 1)
    assert torch.equal(together, attended(queries, layer, batch, 0, 1, splits=1))
