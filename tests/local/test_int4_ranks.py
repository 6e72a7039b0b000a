"""Checkpoints published in int4 over ranks: slices on the borders of groups, with their scales, and whole experts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llama4_local.checkpoint.headers import SINGLE_FILE
from llama4_local.checkpoint.loader import load_model
from llama4_local.config.model import ModelConfig
from llama4_local.config.share import Share
from llama4_local.parallel.loading import ShardSource, load_share
from llama4_local.planning import plan
from llama4_local.scoring import score
from llama4_local.weights.quantized import Int4Matrix, Matrix
from llama4_local.weights.tree import WeightTree
from llama4sdk.errors import InvalidRequest
from local.divisible import SHAPES
from local.int4_checkpoints import GROUP, saved_int4
from local.memory_peak import MemoryPeak
from local.packable import parts, wide
from local.small_checkpoints import CHUNK, prompt
from local.test_expert_parallel import one_mixture
from local.test_plan_ranks import own_bytes
from local.test_rank_loading import largest_tensor
from local.test_score_oracle import TOLERANCE, difference
from long_runs import LONG, only_long

ORDERS = ("none", "sorted", "unwritten") if LONG else ("sorted",)


def matrices(weights: WeightTree[Matrix]) -> list[torch.Tensor]:
    """Return what a layer multiplies by, unpacked: of attention, and of its feed-forward."""
    layer = weights.layers[1]
    assert layer.moe
    packed = [layer.attention.qkv, layer.attention.output, layer.moe.gate_up, layer.moe.down]
    packed += [layer.moe.shared.gate_up, layer.moe.shared.down]
    assert all(isinstance(each, Int4Matrix) for each in packed)
    return [wide(each) for each in packed]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("whole", [False, True])
def test_each_rank_has_its_slices_in_the_integers_and_scales_of_one_process(
    order: str, whole: bool, tmp_path: Path
) -> None:
    config = one_mixture()
    folder = saved_int4(tmp_path, config, order=order, head=True)
    loaded = load_model(folder, dtype="float32").weights
    qkv, output, gate_up, down, shared, shared_down = matrices(loaded)  # type: ignore[arg-type]
    text, seen = config.text, list[tuple[int, int]]()

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    for rank in range(2):
        share = Share(rank, 2, whole)
        own_weights = load_share(ShardSource(str(folder), "float32"), share, note)
        own = matrices(own_weights)  # type: ignore[arg-type]
        heads = [part.chunk(2)[rank] for part in qkv.split([rows * text.head_dim for rows in head_rows(config)])]
        assert torch.equal(own[0], torch.cat(heads))
        assert torch.equal(own[1], output.chunk(2, dim=1)[rank])
        start, stop = share.vocabulary(text.vocab_size)
        assert torch.equal(wide(own_weights.head), wide(loaded.head)[start:stop])
        if whole:
            assert all(torch.equal(a, b.chunk(2)[rank]) for a, b in ((own[2], gate_up), (own[3], down)))
            assert torch.equal(own[4], shared)
            assert torch.equal(own[5], shared_down)
        else:
            assert torch.equal(own[3], down.chunk(2, dim=-1)[rank])
            assert torch.equal(own[5], shared_down.chunk(2, dim=1)[rank])
            for mine, theirs in ((own[2], gate_up), (own[4], shared)):
                halves = [half.chunk(2, dim=-2)[rank] for half in theirs.chunk(2, dim=-2)]
                assert torch.equal(mine, torch.cat(halves, dim=-2))
        assert seen[-1][0] == seen[-1][1]  # all that it counts was read, and nothing else


def head_rows(config: ModelConfig) -> tuple[int, int, int]:
    return config.text.heads, config.text.kv_heads, config.text.kv_heads


@pytest.mark.parametrize("whole", [False, True] if LONG else [False])
@pytest.mark.parametrize("ranks", [2, 4] if LONG else [4])
def test_a_share_takes_its_room_and_one_tensor_more_and_is_planned(ranks: int, whole: bool, tmp_path: Path) -> None:
    folder = saved_int4(tmp_path, SHAPES["maverick"])
    source, share = ShardSource(str(folder)), Share(0, ranks, whole)
    with MemoryPeak(mapped=[(folder / SINGLE_FILE).stat().st_size]) as measured:
        weights = load_share(source, share)
    taken = sum(own_bytes(weights).values())
    assert measured.peak <= taken + largest_tensor(source, share)
    planned = plan(folder, memory=f"{ranks}x1GB", machine="cpu", context=100, sequences=3, expert_parallel=whole)
    assert planned.weights.total == pytest.approx(taken, rel=0.02)


@pytest.mark.parametrize(
    ("ranks", "group", "words"),
    [
        (4, 128, r"cut groups of inputs of .*down_proj.*possible: 1, 2\. With expert_parallel=True it does"),
        (3, 32, "possible: 1, 2, 4"),
    ],
)
def test_ranks_that_would_cut_groups_are_refused_in_words(ranks: int, group: int, words: str, tmp_path: Path) -> None:
    small = one_mixture()
    text = replace(small.text, hidden_size=128, heads=64, expert_size=256, dense_size=512)
    folder = saved_int4(tmp_path, replace(small, text=text), group=group)
    with pytest.raises(InvalidRequest, match=words):
        load_share(ShardSource(str(folder)), Share(0, ranks))
    with pytest.raises(InvalidRequest, match=words):
        plan(folder, memory=f"{ranks}x1GB", machine="cpu")


def test_matrices_in_activation_order_are_refused_in_words(tmp_path: Path) -> None:
    folder = saved_int4(tmp_path, one_mixture(), order="activation")
    with pytest.raises(InvalidRequest, match=r"activation order.*leave tensor_parallel= out"):
        load_share(ShardSource(str(folder)), Share(0, 2))


@only_long("starts processes")
@pytest.mark.parametrize(("ranks", "whole"), [(2, False), (4, False), (2, True)])
@pytest.mark.parametrize("group", [GROUP, 0])
def test_scores_over_processes_are_those_of_one(ranks: int, whole: bool, group: int, tmp_path: Path) -> None:
    config = SHAPES["maverick"]
    folder = saved_int4(tmp_path, config, group=group)
    ids = prompt(config, 2 * CHUNK + 3)
    shared = score(folder, ids, tensor_parallel=ranks, expert_parallel=whole)
    assert difference(shared, score(folder, ids)) <= TOLERANCE
    assert parts(load_model(folder).weights.layers[1].attention.qkv)  # type: ignore[arg-type]
