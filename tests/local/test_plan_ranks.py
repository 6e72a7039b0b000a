"""The planner over several ranks: its figures by arithmetic, and against what loading a share allocates."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

from llama4_local.cache.kv_cache import KvCache
from llama4_local.config.share import Share
from llama4_local.parallel.loading import ShardSource, load_share
from llama4_local.planning import check_fits, plan
from llama4_local.planning.command import main
from llama4_local.planning.published import PUBLISHED
from llama4_local.planning.routed import touched_experts
from llama4sdk.errors import InvalidRequest
from local.divisible import SHAPES
from local.fp8_checkpoints import saved_fp8
from local.packable import parts
from local.small_checkpoints import biting_weights, saved
from long_runs import LONG

if TYPE_CHECKING:
    from llama4_local.weights.tree import Weights

MAVERICK_FP8 = replace(PUBLISHED["maverick"], fp8=True)
FITTING: dict[str, tuple[Any, dict[str, Any]]] = {
    "maverick, quantized to FP8": ("maverick", {"memory": "8x80GB", "quantize": "fp8"}),
    "maverick, published in FP8": (MAVERICK_FP8, {"memory": "8x80GB", "quantize": None}),
    "scout in bf16": ("scout", {"memory": "4x80GB"}),
    "scout in FP8": ("scout", {"memory": "2 x 80 GB", "quantize": "fp8"}),
    "ten million tokens of scout": ("scout", {"memory": "8×141GB", "cache_dtype": "fp8", "context": "10M"}),
}
Form = Literal["plain", "int4", "fp8", "published fp8"]
USUAL: list[tuple[Form, int, bool]] = [("int4", 2, False), ("published fp8", 4, True)]
CASES = [
    (form, ranks, whole)
    for form in get_args(Form)
    for ranks in (2, 4)
    for whole in (False, True)
    if LONG or (form, ranks, whole) in USUAL
]


@pytest.mark.parametrize("name", FITTING)
def test_the_model_cards_hosts_hold_what_they_promise(name: str) -> None:
    model, options = FITTING[name]
    found = plan(model, machine="h100", tensor_parallel=int(options["memory"].strip()[0]), **options)
    assert found.fits, found.explanation
    assert found == plan(model, machine="h100", **options)
    assert not plan(model, machine="h100", **{**options, "memory": options["memory"][2:].strip(" x×")}).fits


def test_maverick_in_bf16_does_not_fit_on_eight_and_fp8_is_proposed() -> None:
    found = plan("maverick", memory="8x80GB", quantize=None, tensor_parallel=8, machine="h100")
    assert not found.fits
    assert "quantize='fp8' makes it fit." in found.advice
    assert "on each of 8 ranks" in found.explanation
    memory = found.advice[-1].split("8 × ")[1].split(" would do")[0].replace(" ", "")
    assert plan("maverick", memory=f"8x{float(memory.removesuffix('GB')) + 0.1:.1f}GB").fits
    assert found.advice[-1].endswith("8 × H200 have it.")


def test_the_fewest_ranks_that_hold_it_are_proposed() -> None:
    assert "tensor_parallel=4 makes it fit." in plan("scout", memory="2x80GB").advice
    assert plan("scout", memory="4x80GB").fits


def test_each_rank_has_its_heads_of_the_cache_and_its_share_of_every_matrix() -> None:
    whole, part = (plan("scout", memory=memory, context="1M") for memory in ("400GB", "8x141GB"))
    assert whole.cache.total == 8 * part.cache.total
    for name in ("attention", "experts", "shared"):
        assert getattr(whole.weights, name) == 8 * getattr(part.weights, name)
    assert part.weights.head == 395 * 64 * 5120 * 2  # an eighth of 202,048 tokens, in whole blocks of 64
    assert whole.weights.embedding == part.weights.embedding
    assert part.weights.vision == whole.weights.vision


@pytest.mark.parametrize("batch", [1, 64])
def test_links_carry_two_sums_a_layer_of_every_other_rank(batch: int) -> None:
    steps = plan("maverick", memory="8x80GB", quantize="fp8", machine="h100", context=1).steps
    (step,) = (step for step in steps if step.batch == batch)
    assert step.link_bytes == batch * 48 * 2 * (2 * 5120) * 7
    assert step.link_seconds == pytest.approx(step.link_bytes / 450e9)
    assert step.seconds == pytest.approx((step.weight_bytes + step.cache_bytes) / 3.35e12 + step.link_bytes / 450e9)
    (alone, *_) = plan("maverick", memory="900GB", context=1).steps
    assert alone.link_bytes == 0


@pytest.mark.parametrize(("form", "ranks", "whole"), CASES)
def test_planned_shares_are_what_loading_and_the_cache_allocate(
    form: Form, ranks: int, whole: bool, tmp_path: Path
) -> None:
    config, quantize = SHAPES["maverick"], form if form in ("int4", "fp8") else None
    if form == "published fp8":
        folder = saved_fp8(tmp_path, replace(config, fp8=True), biting_weights(config), fused=True)
    else:
        folder = saved(tmp_path, config)
    share = Share(0, ranks, whole)
    weights = load_share(ShardSource(str(folder), quantize=quantize), share)
    taken = sum(own_bytes(weights).values())
    memory = f"{ranks}x1GB"
    planned = plan(
        folder,
        memory=memory,
        machine="cpu",
        quantize=quantize,
        context=100,
        sequences=3,
        expert_parallel=whole,
    )
    assert planned.weights.total == pytest.approx(taken, rel=0.02)
    cache = KvCache.allocate(share.config(config).text, planned.cache.shape, dtype=weights.embedding.dtype)
    assert planned.cache.total == pytest.approx(cache.bytes, rel=0.02)


def own_bytes(weights: Weights) -> dict[int, int]:
    """Return the bytes of a network's tensors by address, without views that end a stack, as its last expert does."""
    found = {tensor.data_ptr(): tensor.nbytes for leaf in weights.leaves() for tensor in parts(leaf)}
    ends = {start + size: max(s for b, s in found.items() if b + s == start + size) for start, size in found.items()}
    return {start: size for start, size in found.items() if ends[start + size] == size}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "8x80GB", "tensor_parallel": 4}, "that of 8 ranks; tensor_parallel=4"),
        ({"memory": "80GB", "tensor_parallel": 4}, "as in '4x80GB'"),
        ({"memory": "0x80GB"}, "0 ranks"),
        ({"memory": "2x"}, "memory is"),
        ({"memory": "2x80"}, "memory is"),
        ({"memory": "2x4x80GB"}, "memory is"),
        *(({"tensor_parallel": ranks}, "whole number of at least 1") for ranks in (0, -1, True, "2", 2.0)),
        *(({"tensor_parallel": ranks}, "possible: 1, 2, 4, 8") for ranks in (3, 5, 16, 10**9)),
    ],
)
def test_ranks_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        plan("scout", **options)


def test_the_check_before_loading_gives_each_rank_an_equal_part_of_the_memory() -> None:
    needed = check_fits(PUBLISHED["scout"], 400 * 10**9, ranks=2).needed
    memory = int(2 * needed / 0.96) + 10
    assert check_fits(PUBLISHED["scout"], memory, ranks=2).ranks == 2
    with pytest.raises(InvalidRequest, match="on each of 2 ranks"):
        check_fits(PUBLISHED["scout"], memory - 10**6, ranks=2)


def test_the_command_plans_for_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scout", "--memory", "4x80GB", "--machine", "h100", "--tensor-parallel", "4"]) == 0
    printed = capsys.readouterr().out
    assert "each of 4 ranks" in printed
    assert "Computed: no such GPUs have been measured." in printed
    assert main(["scout", "--memory", "80GB", "--tensor-parallel", "4"]) == 2


@pytest.mark.parametrize("vocab", [320, 321, 5000, 202_048, 202_049])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_parts_of_a_vocabulary_follow_one_another_and_none_is_empty(vocab: int, size: int) -> None:
    ranges = [Share(rank, size).vocabulary(vocab) for rank in range(size)]
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
    assert ranges[-1][1] == vocab
    assert all(start < stop for start, stop in ranges)
    assert vocab < 2000 or all(start % 64 == 0 for start, _ in ranges)


def test_whole_experts_of_maverick_move_each_row_once_and_keep_the_shared_expert_in_every_rank() -> None:
    options: dict[str, Any] = {"memory": "8x80GB", "quantize": "fp8", "machine": "h100", "context": 1}
    slices, whole = (plan("maverick", **options, expert_parallel=way) for way in (False, True))
    scales = 4 * 5120 * 24 * (1 - 1 / 8)  # bytes: in slices, `down` has its scales on each rank
    assert whole.weights.experts == slices.weights.experts - 128 * scales
    assert whole.weights.shared == 8 * slices.weights.shared - 8 * scales
    row = 2 * 5120
    (step,) = (step for step in whole.steps if step.batch == 64)
    assert step.link_bytes == 64 * row * ((48 + 24) * 7 + 24 * 7 / 8)
    (alone, *_) = whole.steps
    read = whole.weights
    always = read.attention + read.shared + read.dense + read.routers + read.head
    assert alone.weight_bytes == pytest.approx(always + read.experts / 16)  # of 16 whole experts one is read
    ways = slices.expert_ways
    assert ways
    assert ways == whole.expert_ways
    assert (ways.divided.weights, ways.whole.weights) == (slices.weights.total, whole.weights.total)
    assert (ways.divided.shared, ways.whole.shared) == (slices.weights.shared, whole.weights.shared)
    assert (ways.divided.link_bytes, ways.whole.link_bytes) == (slices.steps[0].link_bytes, alone.link_bytes)


@pytest.mark.parametrize(
    ("model", "options", "tokens"),
    [
        ("maverick", {"memory": "8x80GB", "quantize": "fp8"}, 512),
        ("scout", {"memory": "4x80GB"}, 2048),
        ("scout", {"memory": "4x80GB", "machine": "cpu"}, None),
    ],
)
def test_whole_experts_take_less_time_in_long_steps(model: str, options: dict[str, Any], tokens: int | None) -> None:
    options = {"machine": "h100", "context": 1, **options}
    ways = plan(model, **options).expert_ways
    assert ways
    assert ways.whole_from == tokens
    if tokens:
        for count, faster in ((tokens, True), (tokens // 2, False)):
            slices, whole = (
                next(step for step in plan(model, sequences=count, expert_parallel=way, **options).steps[::-1])
                for way in (False, True)
            )
            assert slices.batch == whole.batch == count
            seconds = [(step.weight_bytes / 3.35e12 + step.link_bytes / 450e9) for step in (slices, whole)]
            assert (seconds[1] < seconds[0]) is faster


def test_networks_without_a_choice_show_none() -> None:
    assert plan("guard-4", memory="2x80GB").expert_ways is None
    assert plan("scout", memory="400GB").expert_ways is None
    with pytest.raises(InvalidRequest, match="give their number too"):
        plan("scout", memory="400GB", expert_parallel=True)


@pytest.mark.parametrize(("tokens", "ranks"), [(1, 2), (2, 4), (3, 2), (5, 4)])
def test_the_experts_that_the_busiest_rank_reads_are_counted_exactly(tokens: int, ranks: int) -> None:
    total = 0
    for routed in product(range(8), repeat=tokens):
        counts = Counter(expert // (8 // ranks) for expert in set(routed))
        total += max(counts.values())
    assert touched_experts(8, tokens, ranks) == pytest.approx(total / 8**tokens)
    assert touched_experts(8, 10_000, ranks) == 8 // ranks


def test_slices_are_proposed_where_whole_experts_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    between = ["scout", "--memory", "4x66GB", "--machine", "h100"]
    assert main(between) == 0
    assert "Whole experts take less time in steps of 2,048" in " ".join(capsys.readouterr().out.split())
    assert main([*between, "--expert-parallel"]) == 1
    assert "expert_parallel=False makes it fit." in capsys.readouterr().out
