"""Proves what the tile table does not take yet: the bits of the present launches, over many replays of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from hopper_clock import captured
from hopper_comparison import Case, Comparison, layout
from hopper_inputs import DEVICE, REHEARSAL, kernels, normal
from torch import Tensor

from llama4_local.cache.kv_cache import LayerCache
from llama4_local.ops.batch import Batch

REPLAYS = 2 if REHEARSAL else 1000
CONTEXTS = {"short": [1, 65], "uneven": [70, 1, 40]} if REHEARSAL else {
    "alone": [4096],
    "long": [131_072],
    "uneven": [1, 63, 64, 65, 4097, 8192, 500, 20_000],
    "64": [4096] * 64,
}  # fmt: skip


def trials() -> Iterator[Case]:
    """Yield groups of comparisons, as `hopper_checks.everything` does."""
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        yield f"merging inside attention {dtype}", partial(merging, dtype)
        yield f"attention in shares {dtype}", partial(sharing, dtype)


def merging(dtype: torch.dtype) -> Iterator[Comparison]:
    """The last part merges, or a second launch does."""
    for name, contexts in CONTEXTS.items():
        batch, layer, queries = drawn(contexts, dtype)
        inside = kernels(trials=frozenset({"merge"}))
        separate = replace(inside, counters=None)
        calls = [partial(inside.attention, one, layer, batch) for one in queries]
        expected = [separate.attention(one, layer, batch) for one in queries]
        yield same_bits("attention_decode", f"merging inside, {name} {dtype}", calls, expected)


def sharing(dtype: torch.dtype) -> Iterator[Comparison]:
    """Programs share the blocks: near to splits, whose sums have another order, and the same bits in every replay."""
    for name, contexts in CONTEXTS.items():
        batch, layer, queries = drawn(contexts, dtype)
        shares = kernels(trials=frozenset({"share"}))
        calls = [partial(shares.attention, one, layer, batch) for one in queries]
        splits = kernels().attention(queries[0], layer, batch)
        yield Comparison("attention_shares", f"{name} {dtype}", calls[0](), splits, 6e-3)
        yield same_bits("attention_shares", f"{name} {dtype}", calls, [call() for call in calls])


def drawn(contexts: list[int], dtype: torch.dtype) -> tuple[Batch, LayerCache, list[Tensor]]:
    """Return a step of single tokens, its cache, and two sets of queries."""
    batch = layout([(1, context) for context in contexts], 64)
    pages = 1 + sum(-(-context // 64) for context in contexts)
    layer = LayerCache(normal(pages, 64, 8, 128).to(dtype), normal(pages, 64, 8, 128).to(dtype), "global")
    return batch, layer, [normal(len(contexts), 40, 128) for _ in range(2)]


def same_bits(kernel: str, case: str, calls: list[Callable[[], Tensor]], expected: list[Tensor]) -> Comparison:
    """Compare results bit for bit, over replays of a graph.

    The calls take turns in memory that both use, so that a part which is left from the one before is another number.
    """
    differing = torch.zeros((), dtype=torch.float64, device=DEVICE)

    def turn(call: Callable[[], Tensor], own: Tensor) -> None:
        differing.add_((call().view(torch.uint8) != own.view(torch.uint8)).any())

    turns = [partial(turn, call, own) for call, own in zip(calls, expected, strict=True)]
    run = partial(_each, turns) if REHEARSAL else captured(turns)
    for _ in range(REPLAYS):
        run()
    ones = torch.ones_like(differing)
    return Comparison(kernel, f"{case}, {REPLAYS} replays", differing + ones, ones, 0.0)


def _each(turns: list[Callable[[], None]]) -> None:
    for turn in turns:
        turn()
