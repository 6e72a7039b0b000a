"""The kernels in the shapes of one of several ranks: every launch can be made, and keeps the rules of machine code."""

from __future__ import annotations

import pytest
import torch

from llama4_local.config.share import Share
from llama4_local.ops.kernels.aot.ahead_of_time import compile_launch
from llama4_local.ops.kernels.aot.compiled import rank_plans
from llama4_local.ops.kernels.aot.serving import (
    FORMATS,
    GROUP,
    SHAPES,
    TOKENS,
    Shape,
    attention_launches,
    matrix_launches,
)
from llama4_local.ops.kernels.arrivals import arrival_counters
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.tile_table import TRIALS, TileTable
from llama4_local.ops.kernels.tiles import Format, Trial
from llama4_local.planning.published import PUBLISHED
from long_runs import only_long

MIXTURES = [shape for shape in SHAPES if shape.experts]


@pytest.mark.parametrize("shape", MIXTURES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_shapes_are_those_of_a_ranks_share(shape: Shape, ranks: int) -> None:
    own, share = shape.share(ranks), Share(0, ranks)
    text = share.config(PUBLISHED[shape.name.lower()]).text
    assert (own.heads, own.kv_heads, own.expert_size) == (text.heads, text.kv_heads, text.expert_size)
    assert own.dense_size in (0, text.dense_size)
    assert own.vocab == share.vocabulary(text.vocab_size)[1]
    assert own.expert_size % GROUP == own.dense_size % GROUP == own.heads * own.head_dim % GROUP == 0


@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_rank_of_eight_launches_every_product(weight_format: Format) -> None:
    for tokens in (1, 64, 2048):
        names = {launch.name for launch in matrix_launches(MIXTURES[0].share(8), weight_format, tokens, KernelOps())}
        whole = {launch.name for launch in matrix_launches(MIXTURES[0], weight_format, tokens, KernelOps())}
        assert names - {"sum_parts"} == whole  # parts are summed before they travel


def test_the_longest_sum_of_parts_keeps_the_rules_of_machine_code() -> None:
    launches = [
        launch for tokens in TOKENS for launch in matrix_launches(MIXTURES[0].share(8), "bf16", tokens, KernelOps())
    ]
    longest = max(
        (each for each in launches if each.name == "sum_parts"), key=lambda each: each.constants["PARTS"] or 0
    )
    assert longest.constants["PARTS"] == 8
    assert not compile_launch(longest).code.problems("sum_parts", matmul=False)


@only_long("compiles for seconds")
@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("trial", sorted(TRIALS))
def test_what_no_gpu_has_timed_keeps_the_rules_of_machine_code_on_a_rank(trial: Trial, ranks: int) -> None:
    ops = KernelOps(TileTable(trials=frozenset({trial})), arrival_counters("meta"))
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        launches = attention_launches(MIXTURES[0].share(ranks), dtype, 8, ops)
        for each in launches[-2:]:
            assert not compile_launch(each).code.problems(each.name, matmul=each.matmul)


@only_long("compiles for minutes")
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_ranks_binaries_keep_the_rules_of_machine_code(ranks: int) -> None:
    plans = rank_plans(ranks)
    assert plans
    problems = [
        f"{plan.launch.name} of {', '.join(plan.models)}: {problem}"
        for plan in plans
        for problem in compile_launch(plan.launch).code.problems(plan.launch.name, matmul=plan.launch.matmul)
    ]
    assert not problems
