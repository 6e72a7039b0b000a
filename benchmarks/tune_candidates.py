"""The tuner's candidates: for each kernel, format and number of tokens a short list of tile configs.

The lists are made by hand from compiled code. A grouped product at prefill reads more bytes from the L2 cache the
smaller its block is: 128×128 needs a third more than 128×256. int4 and FP8 keep a second block of sums in registers,
so that their large blocks need 16 warps. A handful of tokens needs many loads in flight, and enough programs to keep
all multiprocessors busy to the end: small blocks, splits, deep pipelines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hopper_inputs import REHEARSAL

from llama4_local.ops.kernels.tile_table import MOST_MERGED
from llama4_local.ops.kernels.tiles import DecodeTile, Format, Tile, VectorTile

_PAIRED_TOKENS = 16  # of a group: the most for which int4 blocks in halves are tried

Candidate = Tile | VectorTile | DecodeTile


@dataclass(frozen=True, slots=True)
class Task:
    """An entry of the table to be measured.

    Args:
        kernel: `linear`, `gate_up`, `down`, `attention_decode`, or `vector` for the matrix-vector kernel over experts.
        weight_format: Weight format.
        most: The entry's bound, in tokens of a group; None for the open end.
        tokens: Tokens of the step that is timed.
    """

    kernel: Literal["linear", "gate_up", "down", "vector", "attention_decode"]
    weight_format: Format
    most: int | None
    tokens: int

    def __str__(self) -> str:
        return f"{self.kernel} {self.weight_format} {self.tokens} tokens"


def _tasks() -> list[Task]:
    few: list[Task] = [
        *(Task(kernel, "int4", 1 if kernel != "linear" else 8, 1) for kernel in ("gate_up", "down", "linear")),
        Task("vector", "int4", 4, 1),
        Task("attention_decode", "bf16", 1, 1),
    ]
    prompts = [Task(kernel, name, None, 8192) for name in ("bf16", "int4", "fp8") for kernel in ("gate_up", "down")]
    batches = [Task(kernel, name, 8, 64) for name in ("int4", "fp8") for kernel in ("gate_up", "down")]
    rest = [
        *(Task("attention_decode", "bf16", most, count) for most, count in ((8, 8), (None, 64))),
        *(Task("linear", name, None, 4096) for name in ("bf16", "int4", "fp8")),
        *(Task("linear", name, 64, 64) for name in ("int4", "fp8")),
        *(Task(kernel, "int4", 24, 256) for kernel in ("gate_up", "down")),
        *(Task("vector", name, 4, 1) for name in ("bf16", "fp8")),
        *(Task(kernel, name, 64, 768) for name in ("int4", "fp8", "bf16") for kernel in ("gate_up", "down")),
        *(Task("linear", name, 256, 256) for name in ("int4", "bf16", "fp8")),
        *(Task("linear", name, 16, 16) for name in ("int4", "fp8", "bf16")),
        *(Task(kernel, "bf16", 8, 64) for kernel in ("gate_up", "down")),
    ]
    if REHEARSAL:
        return [few[0], few[3], Task("down", "bf16", None, 40)]
    return [*few, *prompts, *batches, *rest]


TASKS = tuple(_tasks())


def candidates(task: Task) -> list[Candidate]:
    """Return the tile configs to try for an entry."""
    if task.kernel == "vector":
        return list(_vectors(task.weight_format))
    if task.kernel == "attention_decode":
        # Not one stage: with Triton 3.6 on an H200 that ended in an illegal access, which the PTX does not explain.
        shapes = ((64, 4, 2), (64, 4, 3), (64, 4, 4), (64, 8, 3))
        parts = ((64, 2), (64, 4), (16, 4), (16, 8), (8, 8))
        separate = [DecodeTile(splits, *shape, least) for splits, least in parts for shape in shapes]
        # The last part merges with four warps, so that its sums are those of the second launch.
        fewer = ((MOST_MERGED, 2), (MOST_MERGED, 4), *parts[2:])
        inside = [DecodeTile(splits, *shape, least, merges=True) for splits, least in fewer for shape in shapes[:3]]
        shares = [DecodeTile(1, *shape, 2, programs=count) for count in (132, 264) for shape in shapes[:3]]
        return [*separate, *inside, *shares]
    group = task.most if task.most is not None else 512
    whole = task.kernel == "gate_up"
    if task.weight_format == "int4" and task.tokens == 1:
        return list(_paired(1, whole=whole)[: 2 if REHEARSAL else None])
    tiles_for = _few_tokens if group <= 64 else _many_tokens
    tiles = tiles_for(task.weight_format, group, whole=whole)
    if task.weight_format == "int4" and group <= _PAIRED_TOKENS:
        tiles = _paired(group, whole=whole)
    return list(tiles[:2] if REHEARSAL else tiles)


def _vectors(weight_format: Format) -> tuple[VectorTile, ...]:
    if weight_format == "int4":
        shapes = ((32, 4), (64, 4), (128, 4), (128, 8))
        tiles = [(rows, 128, splits, warps) for splits in (4, 2, 8) for rows, warps in shapes]
    else:
        tiles = [(rows, depth, 4, 4) for rows in (4, 8, 16) for depth in (512, 1024)] + [(8, 512, 2, 4), (8, 512, 8, 4)]
    return tuple(VectorTile(*tile, 1) for tile in tiles[: 2 if REHEARSAL else None])


def _few_tokens(weight_format: Format, group: int, *, whole: bool) -> tuple[Tile, ...]:
    """Return small blocks; `whole` excludes splits."""
    int4 = weight_format == "int4"
    widths = (16,) if group <= 8 else (16, 32) if group <= 24 else (32, 64)
    depths = (128, 256) if int4 else (64, 128) if weight_format == "bf16" else (128, 256)
    splits = (1,) if whole else (1, 2, 4, 8) if group <= 8 else (1, 2) if int4 else (1, 2, 4)
    return tuple(
        Tile(rows, width, depth, parts, warps, stages)
        for rows, warps in ((64, 4), (128, 4), (128, 8), *(((64, 2),) if int4 else ()))
        for width in widths
        for depth in depths
        for parts in splits
        for stages in ((3, 4) if int4 else (3, 5) if parts > 1 else (3, 4, 6))
        if not (warps == 4 and rows == 128 and width > 32) and not (int4 and depth == 256 and warps > 2)
    )


def _paired(group: int, *, whole: bool) -> tuple[Tile, ...]:
    """Return blocks of int4 for up to 16 tokens in two halves, see `paired_products`: 16 rows of each for a warp."""
    widths = (8,) if group <= 1 else (8, 16)
    steps = ((256, 3), (256, 4), (512, 2), (512, 3))
    return tuple(
        Tile(32 * warps, width, depth, parts, warps, stages)
        for width in widths
        for parts in ((1,) if whole else (4, 8) if group <= 1 else (1, 2, 4))
        for warps in ((1, 2, 4) if width == 8 else (1, 2))
        for depth, stages in steps
    )


def _many_tokens(weight_format: Format, group: int, *, whole: bool) -> tuple[Tile, ...]:
    """Return large blocks."""
    del whole
    shallow, deep = 64, 128
    if group <= 256:
        depth = shallow if weight_format == "bf16" else deep
        blocks = ((128, 64, 8), (64, 64, 4), (128, 128, 8), (64, 128, 4))
        return tuple(
            Tile(r, t, depth, parts, warps, stages) for r, t, warps in blocks for parts in (1, 2) for stages in (3, 4)
        )
    if weight_format == "bf16":
        tiles = [
            (128, 128, shallow, 8, 4),
            (128, 128, shallow, 8, 3),
            (128, 128, shallow, 4, 4),
            (128, 256, shallow, 8, 3),
            (128, 256, shallow, 8, 4),
            (256, 128, shallow, 8, 3),
            (256, 128, shallow, 8, 4),
            (128, 256, shallow, 16, 4),
            (128, 128, deep, 8, 3),
        ]
    elif weight_format == "int4":
        tiles = [
            (128, 256, deep, 8, 3),
            (128, 256, deep, 8, 2),
            (128, 128, deep, 8, 3),
            (128, 128, deep, 8, 4),
            (64, 128, deep, 4, 3),
            (256, 128, deep, 8, 3),
        ]
    else:
        tiles = [
            (128, 128, deep, 8, 3),
            (128, 128, deep, 8, 4),
            (128, 128, deep, 16, 4),
            (128, 256, deep, 16, 3),
            (256, 128, deep, 16, 3),
            (64, 256, deep, 8, 3),
            (128, 64, deep, 4, 4),
            (256, 64, deep, 8, 3),
            (128, 128, 256, 8, 3),
            (128, 256, shallow, 16, 4),
        ]
    return tuple(Tile(r, t, depth, 1, warps, stages) for r, t, depth, warps, stages in tiles)
