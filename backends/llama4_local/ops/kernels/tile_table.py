"""Tile configs by kernel, weight format and number of tokens, from the table that `benchmarks/tune.py` writes.

Nothing is tuned at load or while serving. Entries that no GPU has measured follow the machine code: registers,
shared memory, loads in flight.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from llama4_local.ops.kernels.tiles import AttentionTile, DecodeTile, Tile, Trial, VectorTile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.ops.kernels.tiles import Format, Kernel

VECTOR_TOKENS = 4  # tokens that the matrix-vector kernel is written for; the table enables it for each format

_HGMMA_TOKENS = 16  # the narrow side of Hopper's matrix instructions, as the kernels use them
_UNLIMITED = 1 << 30
_WIDE = 4  # times as many outputs as inputs: enough programs without splits

DEFAULT = Tile(64, 64, 64, 1, 4, 4)  # correct for every shape, where the table has no entry

_NOT_MATRIX_TILES = ("vector", "attention_decode")  # entries of the table with other fields than `Tile`

Steps = tuple[tuple[int, Tile], ...]


@cache
def _file() -> dict[str, dict[str, Any]]:
    return json.loads(files("llama4_local.ops.kernels").joinpath("table.json").read_text(encoding="utf-8"))


@cache
def matrix_tiles() -> Mapping[tuple[str, str], Steps]:
    """Return, for each matrix kernel and format, (most tokens of a group, tile config), from few tokens to many."""
    kernels = {kernel: formats for kernel, formats in _file().items() if kernel not in _NOT_MATRIX_TILES}
    return {(kernel, name): _steps(rows) for kernel, formats in kernels.items() for name, rows in formats.items()}


@cache
def vector_tiles() -> Mapping[str, tuple[int, VectorTile]]:
    """Return, for each format, the most tokens that the matrix-vector kernel serves, and its tile config."""
    return {name: _vector(**rows[0]) for name, rows in _file()["vector"].items()}


def _vector(most: int, **tile: int) -> tuple[int, VectorTile]:
    return most, VectorTile(**tile)


@cache
def decode_tiles() -> tuple[tuple[int, DecodeTile], ...]:
    """Return (most sequences, tile config) of decode attention; few sequences need more splits to fill the chip."""
    return tuple(_decode(**row) for row in _file()["attention_decode"]["bf16"])


def _decode(most: int | None, **tile: Any) -> tuple[int, DecodeTile]:
    return most or _UNLIMITED, DecodeTile(**tile)


def _steps(rows: list[dict[str, int | None]]) -> Steps:
    def tile(row: dict[str, int | None]) -> Tile:
        return Tile(**{name: value for name, value in row.items() if name != "most" and value is not None})

    return tuple((row["most"] or _UNLIMITED, tile(row)) for row in rows)


# One tile config for every number of tokens: `deterministic` serving.
FIXED_TILES: Mapping[tuple[Kernel, Format], Tile] = {
    ("linear", "int4"): Tile(64, 64, 128, 2, 4, 4),
    ("linear", "fp8"): Tile(64, 64, 128, 2, 4, 4),
    ("linear", "bf16"): Tile(64, 64, 64, 2, 4, 4),
    ("gate_up", "int4"): Tile(64, 32, 128, 1, 4, 4),
    ("gate_up", "fp8"): Tile(128, 32, 128, 1, 4, 4),
    ("gate_up", "bf16"): Tile(128, 32, 64, 1, 4, 4),
    ("down", "int4"): Tile(64, 32, 128, 2, 4, 4),
    ("down", "fp8"): Tile(64, 32, 128, 2, 4, 4),
    ("down", "bf16"): Tile(64, 32, 64, 2, 4, 4),
}

PREFILL_TILE = AttentionTile(64, 64, 4, 3)
FIXED_DECODE_TILE = DecodeTile(32, 64, 4, 3, 4)
TRIALS: frozenset[Trial] = frozenset(get_args(Trial))
SHARING, SHARED_LEAST = 264, 2  # two programs on each of a Hopper GPU's 132 multiprocessors
MOST_MERGED = 32  # splits: parts of 64 would be in another layout beside blocks of 64 keys, and spill

SplitTile = TypeVar("SplitTile", Tile, VectorTile)
Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class TileTable:
    """Looks tile configs up by weight format and number of tokens.

    Args:
        deterministic: One tile config for all numbers of tokens, so that a row's result is independent of them.
        trials: What is taken though no GPU has timed it, for checks and benchmarks; serving takes what the table has.
    """

    deterministic: bool = False
    trials: frozenset[Trial] = frozenset()

    def uses_vector(self, weight_format: Format, tokens: int) -> bool:
        """Whether the matrix-vector kernel serves so many tokens."""
        return tokens <= vector_tiles()[weight_format][0] and not self.deterministic

    def tile(self, kernel: Kernel, weight_format: Format, tokens: int, groups: int = 1) -> Tile:
        """Return the tile config of a matrix kernel whose groups share `tokens` tokens."""
        if self.deterministic:
            return FIXED_TILES[kernel, weight_format]
        # Some groups get more than their share, and the shared expert gets all tokens: enough for HGMMA.
        least = 2 if tokens >= _HGMMA_TOKENS else 1
        each = tokens if groups == 1 else max(least, tokens // groups + 1)
        return _first(matrix_tiles().get((kernel, weight_format), ((_UNLIMITED, DEFAULT),)), each)

    def linear_tile(self, weight_format: Format, tokens: int, outputs: int, inputs: int) -> Tile:
        """Return the tile config of a dense product, without splits where the matrix is wide."""
        return unsplit(self.tile("linear", weight_format, tokens), outputs, inputs)

    def vector_tile(self, weight_format: Format) -> VectorTile:
        """Return the tile config of the matrix-vector kernel."""
        return vector_tiles()[weight_format][1]

    def linear_vector_tile(self, weight_format: Format, outputs: int, inputs: int) -> VectorTile:
        """Return the tile config of a dense matrix-vector product, without splits where the matrix is wide."""
        return unsplit(self.vector_tile(weight_format), outputs, inputs)

    def decode_tile(self, sequences: int, *, e4m3: bool) -> DecodeTile:
        """Return the tile config of decode attention over a cache in bf16 or e4m3."""
        tile = FIXED_DECODE_TILE if self.deterministic else _first(decode_tiles(), sequences)
        if "merge" in self.trials:
            tile = tile._replace(merges=True, splits=min(tile.splits, MOST_MERGED))
        if "share" in self.trials and not self.deterministic:
            tile = tile._replace(programs=SHARING, least=SHARED_LEAST)
        # E4m3 loads stay 16 bytes wide only outside the pipeline.
        return tile._replace(stages=1) if e4m3 else tile


def unsplit(tile: SplitTile, outputs: int, inputs: int) -> SplitTile:
    """Return the tile config, without splits where there are many more outputs than inputs."""
    return tile._replace(splits=1) if outputs >= _WIDE * inputs else tile


def _first(steps: tuple[tuple[int, Entry], ...], count: int) -> Entry:
    return next(tile for most, tile in steps if count <= most)
