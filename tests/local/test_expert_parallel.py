"""Whole experts by rank: results, the bytes that travel, the shares that are loaded, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama4_local import LocalBackend
from llama4_local.checkpoint.cuts import own_tensors
from llama4_local.checkpoint.headers import find_tensors
from llama4_local.checkpoint.loader import load_model
from llama4_local.config.model import ModelConfig
from llama4_local.config.share import WHOLE, Share, check_split
from llama4_local.model.expert_ranks import moe_over_ranks
from llama4_local.ops.kernels.layout import prepare
from llama4_local.ops.reference.functions import ReferenceOps
from llama4_local.parallel import loading
from llama4_local.parallel.exchange import Exchange
from llama4_local.parallel.loading import ShardSource, load_share
from llama4_local.parallel.member import Member
from llama4_local.parallel.sliced_reader import SlicedReader
from llama4_local.scoring import score, score_with
from llama4_local.weights.tree import MlpTree, MoeTree, MoeWeights
from llama4sdk.errors import CheckpointError, InvalidRequest
from local.divisible import SHAPES
from local.fp8_checkpoints import saved_fp8
from local.int4_checkpoints import saved_int4
from local.packable import parts
from local.rank_threads import exchanges, model_over_threads, on_every_rank
from local.small_checkpoints import CHUNK, biting_weights, prompt, saved, tile_pixels
from local.test_score_oracle import TOLERANCE, difference, expected, transformers
from long_runs import LONG, only_long

HIDDEN, WIDTH, EXPERTS = 16, 8, 8
Form = Literal["plain", "int4", "fp8", "fused fp8", "single fp8", "w4a16"]


def one_mixture() -> ModelConfig:
    """Return Maverick's shape with two layers, the second with experts."""
    small = SHAPES["maverick"]
    return replace(small, text=replace(small.text, rope_layers=(True, True), moe_layers=(False, True)))


def mixture(seed: int = 0) -> MoeWeights:
    """Return a random mixture of 8 experts."""
    source = torch.Generator().manual_seed(seed)
    router, gate_up, down, own_gate_up, own_down = (
        torch.randn(shape, generator=source)
        for shape in (
            (EXPERTS, HIDDEN),
            (EXPERTS, HIDDEN, 2 * WIDTH),
            (EXPERTS, WIDTH, HIDDEN),
            (2 * WIDTH, HIDDEN),
            (HIDDEN, WIDTH),
        )
    )
    return MoeTree(router, gate_up, down, MlpTree(own_gate_up, own_down))


def over_ranks(ends: list[Exchange], x: torch.Tensor, weights: MoeWeights) -> list[torch.Tensor]:
    """Return what each rank computes."""

    def work(share: Share, end: Exchange) -> torch.Tensor:
        share = replace(share, whole_experts=True)
        start, stop = share.experts(EXPERTS)
        own = replace(weights, gate_up=weights.gate_up[start:stop], down=weights.down[start:stop])
        return moe_over_ranks(ReferenceOps(), Member(share, end), x, own)

    return on_every_rank(ends, work)


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_mixture_over_ranks_has_the_same_bits_on_each_and_moves_each_row_once(ranks: int) -> None:
    weights, ops, ends = mixture(), ReferenceOps(), exchanges(ranks)
    for tokens in (1, 2, 33):
        x = torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(tokens))
        before = [end.received for end in ends]
        found = over_ranks(ends, x, weights)
        assert all(torch.equal(each, found[0]) for each in found)
        assert difference(found[0], ops.moe(x, weights)) <= TOLERANCE
        owned = (
            (x @ weights.router.t()).argmax(1).div(EXPERTS // ranks, rounding_mode="floor").bincount(minlength=ranks)
        )
        moved = [end.received - start for end, start in zip(ends, before, strict=True)]
        assert moved == [(tokens - own) * HIDDEN * 4 for own in owned.tolist()]


def test_tokens_of_one_expert_come_from_one_rank_and_ties_go_to_the_first() -> None:
    ends, weights = exchanges(2), mixture()
    weights = replace(weights, router=torch.zeros(EXPERTS, HIDDEN))
    x = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(1))
    found = over_ranks(ends, x, weights)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], ReferenceOps().moe(x, weights))
    assert [end.received for end in ends] == [4, 4 + 5 * HIDDEN * 4]  # one number when they met, then all rows or none


def test_scores_with_whole_experts_are_those_of_one_process(tmp_path: Path) -> None:
    config, ranks = one_mixture(), 2
    ids = prompt(config, 2 * CHUNK + 3)
    model = model_over_threads(config, ranks, whole_experts=True)
    try:
        assert difference(score_with(model, ids, prefill_chunk=5), score(saved(tmp_path, config), ids)) <= TOLERANCE
    finally:
        assert model.ranks
        model.ranks.close()


@only_long("starts processes")
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ["scout", "maverick"])
def test_scores_over_processes_are_those_of_transformers(name: str, ranks: int, tmp_path: Path) -> None:
    config = SHAPES[name]
    folder = saved(tmp_path, config)
    theirs: Any = transformers().Llama4ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    ids, pixels = prompt(config, 5 * CHUNK + 3, 2), tile_pixels(config, 2)
    found = score(folder, ids, tiles=pixels, prefill_chunk=5, tensor_parallel=ranks, expert_parallel=True)
    assert difference(found, expected(theirs.eval(), ids, pixels)) <= TOLERANCE


@only_long("starts processes")
@pytest.mark.parametrize("form", ["int4", "fused fp8", "single fp8", "w4a16"])
def test_packed_scores_over_processes_are_those_of_one(form: Form, tmp_path: Path) -> None:
    folder, quantize = published(tmp_path, form, SHAPES["maverick"])
    ids = prompt(SHAPES["maverick"], 2 * CHUNK + 3)
    shared = score(folder, ids, quantize=quantize, tensor_parallel=2, expert_parallel=True)
    assert difference(shared, score(folder, ids, quantize=quantize)) <= TOLERANCE


def published(folder: Path, form: Form, config: ModelConfig) -> tuple[Path, Literal["int4", "fp8"] | None]:
    """Save a network, and return its folder and how it is quantized."""
    if form in ("fused fp8", "single fp8"):
        return saved_fp8(folder, replace(config, fp8=True), biting_weights(config), fused=form == "fused fp8"), None
    if form == "w4a16":
        return saved_int4(folder, config), None
    return saved(folder, config), form if form != "plain" else None


@pytest.mark.parametrize("form", get_args(Form) if LONG else ["int4", "single fp8"])
def test_each_rank_has_its_experts_in_the_bits_of_one_process(form: Form, tmp_path: Path) -> None:
    config = one_mixture()
    folder, quantize = published(tmp_path, form, config)
    source = ShardSource(str(folder), "float32", quantize, keep=False)
    alone = load_share(source, WHOLE) if form == "plain" else load_model(folder, quantize=quantize, keep=False).weights
    whole, seen = alone.layers[1].moe, list[tuple[int, int]]()
    assert whole
    for rank in range(2):
        share = Share(rank, 2, whole_experts=True)
        own = load_share(source, share, lambda done, total: seen.append((done, total))).layers[1].moe
        assert own
        assert torch.equal(own.router, whole.router)
        pairs = [(own.gate_up, whole.gate_up), (own.down, whole.down)]
        for mine, theirs in ((a, b) for pair in pairs for a, b in zip(*map(parts, pair), strict=True)):
            assert torch.equal(bits(mine[:4]), bits(theirs[4 * rank : 4 * rank + 4]))
        pairs = [(own.shared.gate_up, whole.shared.gate_up), (own.shared.down, whole.shared.down)]
        assert all(torch.equal(bits(a), bits(b)) for pair in pairs for a, b in zip(*map(parts, pair), strict=True))
        assert seen[-1][0] == seen[-1][1]  # all that it counts was read, and nothing else


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("form", get_args(Form) if LONG else ["plain", "int4"])
def test_a_share_that_is_loaded_as_the_kernels_take_it_is_what_preparing_makes_of_it(
    form: Form, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, quantize = published(tmp_path, form, one_mixture())
    source, share = ShardSource(str(folder), "float32", quantize, keep=False), Share(1, 2, whole)
    prepared = prepare(load_share(source, share))
    monkeypatch.setattr(loading, "_stacked", lambda config, dtype, device: True)  # pyright: ignore
    stacked = load_share(source, share)
    for own, wanted in zip(prepare(stacked).layers, prepared.layers, strict=True):
        assert own.moe is None or own.moe.gate_up.shape[0] == (5 if whole else 9)
        pairs = [] if not (own.moe and wanted.moe) else [(own.moe.gate_up, wanted.moe.gate_up)]
        pairs += [] if not (own.moe and wanted.moe) else [(own.moe.down, wanted.moe.down)]
        assert all(torch.equal(bits(a), bits(b)) for pair in pairs for a, b in zip(*map(parts, pair), strict=True))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("scales", [(4, 1, 8), (4, 8), (1, 4, 8), (32,), (4,), (4, 1, 1), (1, 4), (1,), ()])
def test_scales_of_fused_experts_in_every_shape_go_with_them(
    scales: tuple[int, ...], whole: bool, tmp_path: Path
) -> None:
    name, count = "model.layers.0.feed_forward.experts.gate_up_proj", torch.Size(scales).numel()
    stored = torch.arange(count, dtype=torch.float32).reshape(scales)
    values = torch.zeros(4, 2, 8).to(torch.float8_e4m3fn)
    save_file({name: values, f"{name}_scale": stored}, tmp_path / "model.safetensors")
    wide = stored.reshape(1, 1) if count == 1 else stored.reshape(4, -1)
    for rank in range(2):
        share = Share(rank, 2, whole)
        reader = SlicedReader(own_tensors(find_tensors(tmp_path), 4, share), share)
        found = reader.read(f"{name}_scale").flatten()
        columns = [2 * rank, 2 * rank + 1, 4 + 2 * rank, 5 + 2 * rank]
        wanted = wide if count == 1 else wide[2 * rank : 2 * rank + 2] if whole else wide
        wanted = wanted[:, columns] if count == 32 and not whole else wanted
        assert torch.equal(found, wanted.flatten())
        assert reader.tensors[name].shape == ((2, 2, 8) if whole else (4, 2, 4))
        assert reader.tensors[f"{name}_scale"].shape == reader.read(f"{name}_scale").shape


def test_a_bad_expert_is_called_by_its_published_name(tmp_path: Path) -> None:
    config = one_mixture()
    folder = saved_fp8(tmp_path, replace(config, fp8=True), biting_weights(config), fused=False)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if ".experts.6.up_proj.weight_scale" in name)
    tensors[name][0] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"experts\.6\.up_proj\.weight_scale has values"):
        load_share(ShardSource(str(folder)), Share(1, 2, whole_experts=True))
    load_share(ShardSource(str(folder)), Share(0, 2, whole_experts=True))  # it reads none of the others'
    if LONG:  # starts a process, whose error becomes rank 0's
        with pytest.raises(CheckpointError, match=r"experts\.6\.up_proj\.weight_scale has values"):
            score(folder, [1, 2], tensor_parallel=2, expert_parallel=True)


def test_packed_shares_of_both_ways_are_kept_beside_each_other(tmp_path: Path) -> None:
    folder = saved(tmp_path, one_mixture())
    for whole in (False, True):
        load_share(ShardSource(str(folder), quantize="int4"), Share(0, 2, whole))
    kept = sorted(path.name.partition("-0-of-2")[2] for path in tmp_path.glob(".packed-int4-*"))
    assert kept == ["", "-experts"]


def test_int4_groups_that_slices_would_cut_are_whole_in_whole_experts(tmp_path: Path) -> None:
    config = SHAPES["scout"]
    config = replace(config, text=replace(config.text, expert_size=128))
    folder = saved(tmp_path, config)
    with pytest.raises(InvalidRequest, match="With expert_parallel=True it does"):
        score(folder, [1, 2], quantize="int4", tensor_parallel=2)
    load_share(ShardSource(str(folder), quantize="int4", keep=False), Share(1, 2, whole_experts=True))


@pytest.mark.parametrize(
    ("ranks", "given", "words"),
    [
        (1, True, "give their number too"),
        (2, "yes", "expert_parallel is True or False"),
        (2, 1, "expert_parallel is True or False"),
    ],
)
def test_whole_experts_that_mean_nothing_are_refused(ranks: int, given: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=words):
        score(tmp_path, [1, 2], tensor_parallel=ranks, expert_parallel=given)
    with pytest.raises(InvalidRequest, match=words):
        LocalBackend(tensor_parallel=ranks, expert_parallel=given)


def test_networks_without_so_many_whole_experts_are_refused() -> None:
    scout = SHAPES["scout"]
    with pytest.raises(InvalidRequest, match="this network has none"):
        check_split(SHAPES["guard"], Share(0, 2, whole_experts=True))
    with pytest.raises(InvalidRequest, match=r"4 whole experts.*possible: 2, 4\.$"):
        check_split(scout, Share(0, 8, whole_experts=True))
    odd = replace(scout, text=replace(scout.text, experts=3))
    with pytest.raises(InvalidRequest, match=r"none with expert_parallel=True\. With expert_parallel=False"):
        check_split(odd, Share(0, 2, whole_experts=True))
