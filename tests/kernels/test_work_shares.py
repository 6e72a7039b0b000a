"""How evenly decode attention's programs are busy: a model of the grid on a GPU that runs 264 of them together."""

from __future__ import annotations

import heapq

import pytest

pytest.importorskip("triton", reason="Triton comes for Linux only")

from llama4_local.ops.kernels.tile_table import TileTable
from llama4_local.ops.kernels.tiles import DecodeTile

TOGETHER = 264  # programs: two on each of 132 multiprocessors
KV_HEADS = 8
BATCHES = {
    "one long among 64": [100_000] + [500] * 63,
    "the long one last": [500] * 63 + [100_000],
    "two long among 8": [60_000, 60_000] + [700] * 6,
    "spread": [500 * place for place in range(1, 65)],
}


def split(contexts: list[int], tile: DecodeTile) -> list[int]:
    """Blocks of each program that has some, where every sequence is split by itself, in the order of the grid."""
    counts = [-(-context // tile.keys) for context in contexts]
    each = [max(-(-count // tile.splits), tile.least) for count in counts]
    return [
        min(size, count - part * size)
        for part in range(tile.splits)
        for _ in range(KV_HEADS)
        for count, size in zip(counts, each, strict=True)
        if part * size < count
    ]


def shared(contexts: list[int], tile: DecodeTile) -> list[int]:
    """The same where programs share all blocks."""
    total = KV_HEADS * sum(-(-context // tile.keys) for context in contexts)
    each = max(-(-total // tile.programs), tile.least)
    return [min(each, total - first) for first in range(0, total, each)]


def waste(programs: list[int]) -> float:
    """The time until the last program ends, over that of the same blocks spread evenly over the GPU."""
    ends = [0] * TOGETHER
    for blocks in programs:
        heapq.heapreplace(ends, ends[0] + blocks)
    return max(ends) * TOGETHER / sum(programs)


def cut(contexts: list[int], tiles: TileTable) -> list[int]:
    tile = tiles.decode_tile(len(contexts), e4m3=False)
    return shared(contexts, tile) if tile.programs else split(contexts, tile)


@pytest.mark.parametrize("contexts", BATCHES.values(), ids=BATCHES.keys())
def test_shares_keep_every_program_busy_to_the_end(contexts: list[int]) -> None:
    shares = cut(contexts, TileTable(trials=frozenset({"share"})))
    assert sum(shares) == sum(cut(contexts, TileTable()))
    assert waste(shares) < 1.1
    print(f"\nin shares {waste(shares):.2f}, in splits {waste(cut(contexts, TileTable())):.2f}")


@pytest.mark.parametrize("name", ["one long among 64", "the long one last"])
def test_splits_of_each_sequence_leave_programs_idle(name: str) -> None:
    assert waste(cut(BATCHES[name], TileTable())) > 1.3
