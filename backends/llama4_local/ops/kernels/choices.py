"""Which cut serves which shape: read from the table that `benchmarks/tune.py` writes.

Nothing is tuned when a model is loaded or a request arrives. Entries that no GPU has measured yet are chosen
by what their machine code says: registers, shared memory, loads in flight.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from llama4_local.ops.kernels.tiles import AttentionTile, DecodeTile, Tile, VectorTile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.ops.kernels.tiles import Format, Kernel

FEW = 4  # tokens that the vector kernel is made for; the table says where it serves them

_ENOUGH = 16  # tokens on the narrow side of Hopper's matrix instructions, as they are used here
_EVER = 1 << 30
_WIDE = 4  # times as many outputs as inputs: enough programs without splitting

DEFAULT = Tile(64, 64, 64, 1, 4, 4)  # right for every shape, where the table has none

_OTHERS = ("vector", "attention_decode")  # entries of the table that are no `Tile`

Steps = tuple[tuple[int, Tile], ...]


@cache
def _table() -> dict[str, dict[str, Any]]:
    return json.loads(files("llama4_local.ops.kernels").joinpath("table.json").read_text(encoding="utf-8"))


@cache
def table() -> Mapping[tuple[str, str], Steps]:
    """Return `table.json`: for each kernel and format (most tokens of a group, cut), from few to many."""
    found = {kernel: forms for kernel, forms in _table().items() if kernel not in _OTHERS}
    return {(kernel, form): _steps(rows) for kernel, forms in found.items() for form, rows in forms.items()}


@cache
def vectors() -> Mapping[str, tuple[int, VectorTile]]:
    """Return, for each format, the most tokens that the vector kernel serves, and its cut."""
    return {form: _vector(**rows[0]) for form, rows in _table()["vector"].items()}


def _vector(most: int, **cut: int) -> tuple[int, VectorTile]:
    return most, VectorTile(**cut)


@cache
def decode_steps() -> tuple[tuple[int, DecodeTile], ...]:
    """Return, for most sequences, how attention of single tokens is cut: `attention_decode` in `table.json`.

    Few sequences need more splits to fill the chip.
    """
    return tuple(_decode(**row) for row in _table()["attention_decode"]["bf16"])


def _decode(most: int | None, **cut: int) -> tuple[int, DecodeTile]:
    return most or _EVER, DecodeTile(**cut)


def _steps(rows: list[dict[str, int | None]]) -> Steps:
    def cut(row: dict[str, int | None]) -> Tile:
        return Tile(**{name: value for name, value in row.items() if name != "most" and value is not None})

    return tuple((row["most"] or _EVER, cut(row)) for row in rows)


# One cut for every number of tokens: `deterministic` serving.
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

PREFILL_TILE = AttentionTile(128, 64, 8, 2)
FIXED_DECODE_TILE = DecodeTile(32, 64, 4, 2)

Cut = TypeVar("Cut", Tile, VectorTile)
Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Choices:
    """Picks cuts by shape, or always the same ones.

    Args:
        deterministic: One cut for all numbers of tokens, so that a row's result never depends on them.
    """

    deterministic: bool = False

    def vector(self, form: Format, tokens: int) -> bool:
        """Whether the vector kernel serves so many tokens."""
        return tokens <= vectors()[form][0] and not self.deterministic

    def tile(self, kernel: Kernel, form: Format, tokens: int, groups: int = 1) -> Tile:
        """Return the cut of a matrix kernel whose groups share `tokens` tokens."""
        if self.deterministic:
            return FIXED_TILES[kernel, form]
        # Some groups get more than their share, and the shared expert gets all: enough for Hopper's matrix units.
        least = 2 if tokens >= _ENOUGH else 1
        each = tokens if groups == 1 else max(least, tokens // groups + 1)
        return _first(table().get((kernel, form), ((_EVER, DEFAULT),)), each)

    def linear(self, form: Format, tokens: int, outputs: int, inputs: int) -> Tile:
        """Return the cut of a dense product; much wider than deep ones are never split."""
        return unsplit(self.tile("linear", form, tokens), outputs, inputs)

    def vector_tile(self, form: Format) -> VectorTile:
        """Return the cut of the vector kernel."""
        return vectors()[form][1]

    def linear_vector(self, form: Format, outputs: int, inputs: int) -> VectorTile:
        """Return the cut of a dense product with few tokens; much wider than deep ones are never split."""
        return unsplit(self.vector_tile(form), outputs, inputs)

    def decode(self, sequences: int, *, narrow: bool) -> DecodeTile:
        """Return the cut of attention for single tokens; `narrow` says that the cache holds e4m3."""
        tile = FIXED_DECODE_TILE if self.deterministic else _first(decode_steps(), sequences)
        # E4m3 loads stay 16 bytes wide only outside the pipeline.
        return replace(tile, stages=1) if narrow else tile


def unsplit(tile: Cut, outputs: int, inputs: int) -> Cut:
    """Return the tile, without splits where there are many more outputs than inputs."""
    return replace(tile, splits=1) if outputs >= _WIDE * inputs else tile


def _first(steps: tuple[tuple[int, Entry], ...], count: int) -> Entry:
    return next(cut for most, cut in steps if count <= most)
