# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
"""Kernels whose last program to arrive finishes the work of all: in any order, with the bits of two launches."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernel_inputs import activations
from kernels.interpreted.arrival_orders import shuffled_programs
from kernels.interpreted.test_attention import DIM, cache, layout
from llama4_local.cache.kv_cache import LayerCache
from llama4_local.ops.batch import Batch
from llama4_local.ops.kernels.arrivals import arrival_counters, arrives_last
from llama4_local.ops.kernels.attention_decode import attention_decode
from llama4_local.ops.kernels.launch import recording
from llama4_local.ops.kernels.tiles import DecodeTile
from long_runs import often, thinned

ORDERS = often(2, 1000)
MERGES = DecodeTile(3, 16, 4, 1, merges=True)
SEQUENCES = [(1, 47), (2, 5), (1, 20)]  # a prompt among them; as many parts as there are splits, and fewer


@triton.jit
def _arrivals_kernel(counter, order, last):
    place = tl.load(order)
    tl.store(last + place, arrives_last(counter, tl.num_programs(0)).to(tl.int32))
    tl.store(order, place + 1)


def test_one_program_of_a_launch_arrives_last_and_resets_the_counter() -> None:
    counters, order, last = (
        arrival_counters("cpu"),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(8, dtype=torch.int32),
    )
    for first in (0, 4):
        with shuffled_programs(first):
            _arrivals_kernel[(4,)](counters, order, last)
    assert last.tolist() == [0, 0, 0, 1] * 2
    assert not counters.any()


def attended(queries: Tensor, layer: LayerCache, batch: Batch, tile: DecodeTile, counters: Tensor | None) -> Tensor:
    out = torch.full((len(queries), queries[0].numel()), math.nan, dtype=torch.bfloat16)
    attention_decode(queries, layer, batch.starts, batch.tables["global"], tile, out, counters)
    return out


@pytest.mark.parametrize("dtype", thinned([torch.bfloat16, torch.float8_e4m3fn], 2), ids=str)
def test_merging_inside_attention_gives_the_bits_of_a_second_launch_in_any_order(dtype: torch.dtype) -> None:
    layer, batch, counters = cache(11, 8, 1, dtype), layout(SEQUENCES, 8), arrival_counters("cpu")
    queries = activations(4, 5, DIM)
    expected = attended(queries, layer, batch, MERGES._replace(merges=False), None).view(torch.int16)
    assert not expected[[0, 3]].view(torch.bfloat16).isnan().any()

    for seed in range(ORDERS):
        with shuffled_programs(seed):
            got = attended(queries, layer, batch, MERGES, counters)
        assert torch.equal(got.view(torch.int16), expected)
        assert not counters.any()


def test_more_key_heads_than_counters_take_the_second_launch() -> None:
    layer, batch = cache(11, 8, 1), layout(SEQUENCES, 8)
    few, enough = torch.zeros(2, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)

    def launched(counters: Tensor) -> list[str]:
        with recording() as launches:
            attended(activations(4, 5, DIM), layer, batch, MERGES, counters)
        return [launch.name for launch in launches]

    assert launched(few) == ["attention_decode", "attention_merge"]
    assert launched(enough) == ["attention_decode"]
