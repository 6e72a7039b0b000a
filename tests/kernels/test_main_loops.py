"""The loops that decode steps spend their time in: how they wait, and how many instructions a weight takes."""

from __future__ import annotations

import pytest
import torch

from llama4_local.ops.kernels.aot.ahead_of_time import compile_launch
from llama4_local.ops.kernels.aot.main_loop import MainLoop, main_loop
from llama4_local.ops.kernels.aot.serving import SHAPES, attention_launches, matrix_launches
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.launch import Launch
from llama4_local.ops.kernels.routing import Dispatch
from llama4_local.ops.kernels.tile_table import TileTable
from llama4_local.ops.kernels.tiles import Format
from long_runs import only_long

SCOUT = SHAPES[0]


def loop_of(launch: Launch) -> MainLoop:
    return main_loop(compile_launch(launch).cubin)


def launch_of(name: str, launches: list[Launch]) -> Launch:
    return next(launch for launch in launches if launch.name == name)


def matrix_launch(name: str, weight_format: Format, tokens: int) -> Launch:
    return launch_of(name, matrix_launches(SCOUT, weight_format, tokens, KernelOps()))


@pytest.mark.parametrize("sequences", [1, 8, 64])
def test_decode_attention_waits_for_one_block_while_later_blocks_are_on_their_way(sequences: int) -> None:
    launches = attention_launches(SCOUT, torch.bfloat16, sequences, KernelOps())

    flying = loop_of(launch_of("attention_decode", launches)).copies_in_flight

    assert flying is not None
    assert flying >= 2  # keys and values of the next block


@only_long("compiles for seconds")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_attention_in_shares_has_the_loop_of_attention_in_splits(dtype: torch.dtype) -> None:
    trial = KernelOps(TileTable(trials=frozenset({"share"})))
    shares, gather = attention_launches(SCOUT, dtype, 8, trial)[-2:]
    usual = launch_of("attention_decode", attention_launches(SCOUT, dtype, 8, KernelOps()))
    for launch in (shares, gather):
        assert not compile_launch(launch).code.problems(launch.name, matmul=launch.matmul)

    own, beside = loop_of(shares), loop_of(usual)

    assert own.instructions <= 1.1 * beside.instructions
    assert (own.copies_in_flight, own.slow_conversions) == (beside.copies_in_flight, beside.slow_conversions)


@pytest.mark.parametrize(("name", "tokens", "most"), [("attention_decode", 1, 510), ("attention_prefill", 2048, 580)])
def test_attention_over_an_fp8_cache_takes_no_slow_conversion(name: str, tokens: int, most: int) -> None:
    launches = attention_launches(SCOUT, torch.float8_e4m3fn, tokens, KernelOps())

    loop = loop_of(launch_of(name, launches))

    assert loop.slow_conversions == 0
    assert loop.instructions <= most  # 687 and 757 where e4m3 becomes bf16


@pytest.mark.parametrize("name", ["gate_up", "down"])
def test_a_single_tokens_int4_experts_take_at_most_two_instructions_for_a_weight(name: str) -> None:
    launch = matrix_launch(name, "int4", 1)
    tile = TileTable().tile("gate_up" if name == "gate_up" else "down", "int4", 1, SCOUT.experts)

    loop = loop_of(launch)

    assert loop.instructions * tile.warps * 32 / (tile.rows * tile.depth) <= 2.0
    assert loop.exchanges == 0
    assert loop.copies_in_flight


def test_nearly_every_program_of_a_single_tokens_grid_has_work() -> None:
    tokens = 1
    some = torch.empty(2 * tokens, dtype=torch.int32)
    dispatch = Dispatch(some, some.float(), torch.empty(SCOUT.experts + 2, dtype=torch.int32))
    working = 2  # tiles of tokens: the routed expert's and the shared one's

    for name in ("gate_up", "down"):
        tile = TileTable().tile("gate_up" if name == "gate_up" else "down", "int4", tokens, SCOUT.experts)
        assert working / dispatch.most_tiles(tile.tokens) >= 0.9


def routed_tiles(counts: list[int], width: int) -> int:
    return sum(-(-count // width) for count in counts)


@pytest.mark.parametrize("width", [8, 16, 64])
@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 33, 200])
def test_the_grid_holds_the_tiles_of_any_routing_and_of_the_worst_exactly(tokens: int, width: int) -> None:
    experts = 16
    some = torch.empty(2 * tokens, dtype=torch.int32)
    dispatch = Dispatch(some, some.float(), torch.empty(experts + 2, dtype=torch.int32))
    shared = -(-tokens // width)
    spread = [tokens // experts + (place < tokens % experts) for place in range(experts)]
    # The worst routing gives as many experts as possible one token beyond whole tiles.
    worst, left = [0] * experts, tokens
    for place in range(min(experts, tokens)):
        worst[place], left = 1, left - 1
    while left >= width:
        worst[0], left = worst[0] + width, left - width
    worst[0] += left

    most = dispatch.most_tiles(width)

    assert routed_tiles(spread, width) + shared <= most
    assert routed_tiles([tokens] + [0] * (experts - 1), width) + shared <= most
    assert most - (routed_tiles(worst, width) + shared) <= 1
