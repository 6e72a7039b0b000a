"""The kernels of several ranks, joined over gloo, beside those of one process."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from torch import Tensor

from kernels.interpreted.test_whole_model import STEPS, FewSplits, reference_logits, run, work
from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import CacheShape, PageAllocators
from llama4_local.checkpoint.loader import load_weights
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.share import Share
from llama4_local.engine.cuda_graphs import Rerun
from llama4_local.engine.rank_graphs import RankGraphs
from llama4_local.model.transformer import Model, forward
from llama4_local.ops.batch import build_batch
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.layout import prepare
from llama4_local.parallel.loading import ShardSource, load_share
from llama4_local.parallel.member import Member
from llama4_local.weights.schema import random_weights
from local.rank_threads import exchanges, on_every_rank
from local.small_checkpoints import guard, maverick, scout
from long_runs import LONG, only_long

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from llama4_local.config.model import ModelConfig
    from llama4_local.ops.kernels.tiles import Format
    from llama4_local.parallel.exchange import Exchange
    from llama4_local.weights.quantized import Matrix
    from llama4_local.weights.tree import WeightTree


class Case(NamedTuple):
    """A network, the format of its matrices, and how its experts are divided."""

    name: str
    weight_format: Format
    whole_experts: bool = False


SHAPES = {"scout": scout(), "maverick": maverick(), "guard": guard()}
CASES = [
    *(Case(name, weight_format) for name in SHAPES for weight_format in ("bf16", "int4", "fp8")),
    *(Case(name, weight_format, True) for name in ("scout", "maverick") for weight_format in ("bf16", "int4")),
]
USUAL = [Case("maverick", "bf16")]
ADDED = STEPS if LONG else ([1, 1],)  # tokens of the steps
FARTHER = 1.5  # as in `local.test_parallel_scores`: parts in bf16 are rounded before their sum
NEAR = 0.02  # of the norm: the split sums of four layers


class Turns(Member):
    """A rank that lets the others compute only while it waits for them: the interpreter has one set of registers."""

    turn = threading.Lock()

    def gather(self, part: Tensor) -> Tensor:
        with self._waiting():
            return super().gather(part)

    def join(self, rows: Tensor, counts: list[int]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        with self._waiting():
            return super().join(rows, counts)

    @contextmanager
    def _waiting(self) -> Generator[None]:
        self.turn.release()
        try:
            yield
        finally:
            self.turn.acquire()


def small(case: Case) -> ModelConfig:
    """Return a shape of two layers; in int4 every half of its inputs holds whole groups."""
    config = SHAPES[case.name]
    heads, width = (16, 256) if case.weight_format == "int4" else (4, 64)
    layers = {"rope_layers": (True, False), "moe_layers": config.text.moe_layers[:2]}
    text = replace(config.text, heads=heads, kv_heads=2, expert_size=width, dense_size=width, **layers)
    return replace(config, vision=None, text=text)


def kernels(config: ModelConfig, weights: WeightTree[Matrix], member: Member | None = None) -> Tensor:
    """Return the logits of a few steps of two sequences, prompts and single tokens among them."""
    with torch.inference_mode():
        ops = KernelOps(FewSplits())
        return run(Model.create(config, prepare(weights), ops, member), torch.bfloat16, ADDED)  # type: ignore[arg-type]


def over_ranks(folder: Path, case: Case) -> list[Tensor]:
    """Return what each of two ranks gets; the heads of vocabularies are joined on both."""
    quantize = None if case.weight_format == "bf16" else case.weight_format
    source = ShardSource(str(folder), "bfloat16", quantize, keep=False)

    def work(share: Share, end: Exchange) -> Tensor:
        share = replace(share, whole_experts=case.whole_experts)
        with Turns.turn:
            return kernels(share.config(small(case)), load_share(source, share), Turns(share, end))

    return on_every_rank(exchanges(2), work)


@pytest.mark.parametrize("case", CASES if LONG else USUAL, ids=str)
def test_kernels_over_ranks_are_those_of_one_process_but_for_split_sums(case: Case, tmp_path: Path) -> None:
    config = small(case)
    save_checkpoint(tmp_path, config, random_weights(config, 3, std=0.12))
    quantize = None if case.weight_format == "bf16" else case.weight_format
    weights = load_weights(tmp_path, config, quantize=quantize, dtype=torch.bfloat16, keep=False)
    first, second = over_ranks(tmp_path, case)
    assert torch.equal(first, second)
    alone = kernels(config, weights)
    exact = reference_logits(config, prepare(weights), exact_rows=1000, steps=ADDED)  # type: ignore[arg-type]
    assert distance(first, exact) < FARTHER * distance(alone, exact)
    print(f"\n{case}: {distance(first, alone):.4f} from one process, which is {distance(alone, exact):.4f} from exact")
    if case.weight_format != "fp8":  # whose slices have scales of their own
        assert distance(first, alone) < NEAR


GRAPHS = [case for case in CASES if not case.whole_experts and case.name != "guard"]


@only_long("interprets a network for minutes")
@pytest.mark.parametrize("case", GRAPHS, ids=str)
def test_graphs_over_ranks_run_the_steps_that_are_run_without_them(case: Case, tmp_path: Path) -> None:
    config = small(case)
    save_checkpoint(tmp_path, config, random_weights(config, 3, std=0.12))
    quantize = None if case.weight_format == "bf16" else case.weight_format
    source = ShardSource(str(tmp_path), "bfloat16", quantize, keep=False)

    def on_rank(share: Share, end: Exchange) -> list[tuple[Tensor, Tensor, int]]:
        with Turns.turn, torch.inference_mode():
            own, ops, member = share.config(small(case)), KernelOps(FewSplits()), Turns(share, end)
            model = Model.create(own, prepare(load_share(source, share)), ops, member)  # type: ignore[arg-type]
            return list(both_ways(model, member))

    first, second = on_every_rank(exchanges(2), on_rank)
    for (eager, replayed, padding), (_, other, _) in zip(first, second, strict=True):
        assert torch.equal(replayed, other)
        far = distance(replayed, eager)
        assert far == 0 if not padding else far < NEAR
        print(f"\n{case}: {len(eager)} rows, {padding} of padding: {far:.4f} from the eager step", end="")


def both_ways(model: Model, member: Member) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield the hidden states of an eager step, those of a graph that runs it again, and its padding rows."""
    shape = CacheShape(global_pages=12, local_pages=8, page_size=4, chunk=model.config.text.chunk)
    cache = KvCache.allocate(model.config.text, shape, dtype=torch.bfloat16)
    graphs = RankGraphs(model, cache, member, Rerun, tokens=8, sequences=3)
    for place in graphs.falling:
        graphs.add(place)
    pages = PageAllocators(shape)
    sequences, source = [pages.sequence() for _ in range(3)], torch.Generator().manual_seed(1)
    for step in ([4], [2, 3], [1, 1, 1], [1, 1], [1, 3, 2]):
        inputs = [work(pages_of, count, source) for pages_of, count in zip(sequences, step, strict=False)]
        eager = forward(model, build_batch(inputs), cache)
        replayed = graphs.launch(inputs)
        assert replayed is not None
        shape_of = next(each for each in graphs.shapes if each.holds(len(eager), len(inputs)))
        yield eager, replayed.clone(), shape_of.tokens - len(eager)


def distance(got: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference over that of what is wanted."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())
