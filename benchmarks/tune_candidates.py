"""What the tuner tries: for each kernel, format and number of tokens a short list of cuts.

The lists are made by hand from what compiled code says. A grouped product at prefill reads as many bytes from the
L2 cache as its block is short: 128×128 needs a third more than 128×256. int4 and FP8 keep a second block of sums
in registers, so that their large blocks need 16 warps. A handful of tokens wants many loads in flight, and so
many programs that all multiprocessors are busy to the end: small blocks, splits, deep pipelines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hopper_inputs import REHEARSAL

from llama4_local.ops.kernels.tiles import DecodeTile, Format, Tile, VectorTile

Candidate = Tile | VectorTile | DecodeTile


@dataclass(frozen=True, slots=True)
class Task:
    """An entry of the table to be measured.

    Args:
        kernel: `linear`, `gate_up`, `down`, `attention_decode`, or `vector` for what the vector kernel does to experts.
        form: Weight format.
        most: The entry's bound, in tokens of a group; None for the open end.
        tokens: Tokens in all that stand for it.
    """

    kernel: Literal["linear", "gate_up", "down", "vector", "attention_decode"]
    form: Format
    most: int | None
    tokens: int

    def __str__(self) -> str:
        return f"{self.kernel} {self.form} {self.tokens} tokens"


def _tasks() -> list[Task]:
    few: list[Task] = [
        *(Task(kernel, "int4", 1 if kernel != "linear" else 8, 1) for kernel in ("gate_up", "down", "linear")),
        Task("vector", "int4", 4, 1),
        Task("attention_decode", "bf16", 1, 1),
    ]
    prompts = [Task(kernel, form, None, 8192) for form in ("bf16", "int4", "fp8") for kernel in ("gate_up", "down")]
    batches = [Task(kernel, form, 8, 64) for form in ("int4", "fp8") for kernel in ("gate_up", "down")]
    rest = [
        *(Task("attention_decode", "bf16", most, count) for most, count in ((8, 8), (None, 64))),
        *(Task("linear", form, None, 4096) for form in ("bf16", "int4", "fp8")),
        *(Task("linear", form, 64, 64) for form in ("int4", "fp8")),
        *(Task(kernel, "int4", 24, 256) for kernel in ("gate_up", "down")),
        *(Task("vector", form, 4, 1) for form in ("bf16", "fp8")),
        *(Task(kernel, form, 64, 768) for form in ("int4", "fp8", "bf16") for kernel in ("gate_up", "down")),
        *(Task("linear", form, 256, 256) for form in ("int4", "bf16", "fp8")),
        *(Task("linear", form, 16, 16) for form in ("int4", "fp8", "bf16")),
        *(Task(kernel, "bf16", 8, 64) for kernel in ("gate_up", "down")),
    ]
    if REHEARSAL:
        return [few[0], few[3], Task("down", "bf16", None, 40)]
    return [*few, *prompts, *batches, *rest]


TASKS = tuple(_tasks())


def candidates(task: Task) -> list[Candidate]:
    """Return the cuts to try for an entry."""
    if task.kernel == "vector":
        return list(_vectors(task.form))
    if task.kernel == "attention_decode":
        # Not one stage: with Triton 3.6 on an H200 that ended in an illegal access, which the PTX does not explain.
        shapes = ((64, 4, 2), (64, 4, 3), (128, 4, 2), (128, 8, 2))
        return [DecodeTile(splits, *shape) for splits in (8, 16, 32, 64) for shape in shapes]
    group = task.most if task.most is not None else 512
    whole = task.kernel == "gate_up"
    if task.form == "int4" and task.tokens == 1:
        return list(_tiny(whole=whole)[: 2 if REHEARSAL else None])
    found = _narrow(task.form, group, whole=whole) if group <= 64 else _wide(task.form, group, whole=whole)
    return list(found[:2] if REHEARSAL else found)


def _vectors(form: Format) -> tuple[VectorTile, ...]:
    if form == "int4":
        shapes = ((32, 4), (64, 4), (128, 4), (128, 8))
        cuts = [(rows, 128, splits, warps) for splits in (4, 2, 8) for rows, warps in shapes]
    else:
        cuts = [(rows, depth, 4, 4) for rows in (4, 8, 16) for depth in (512, 1024)] + [(8, 512, 2, 4), (8, 512, 8, 4)]
    return tuple(VectorTile(*cut, 1) for cut in cuts[: 2 if REHEARSAL else None])


def _narrow(form: Format, group: int, *, whole: bool) -> tuple[Tile, ...]:
    """Return small blocks; `whole` rules splits out."""
    widths = (16,) if group <= 8 else (16, 32) if group <= 24 else (32, 64)
    depths = (128,) if form == "int4" else (64, 128) if form == "bf16" else (128, 256)
    splits = (1,) if whole else (1, 2, 4, 8) if group <= 8 else (1, 2, 4)
    return tuple(
        Tile(rows, width, depth, parts, warps, stages)
        for rows, warps in ((64, 4), (128, 4), (128, 8))
        for width in widths
        for depth in depths
        for parts in splits
        for stages in ((3, 5) if parts > 1 else (3, 4, 6))
        if not (warps == 4 and rows == 128 and width > 32)
    )


def _tiny(*, whole: bool) -> tuple[Tile, ...]:
    """Return blocks for 8 tokens, which the older matrix instructions multiply, and the smallest that Hopper's do."""
    blocks = [(64, 4), (64, 2), (32, 2), (32, 1), (128, 8)] + ([(128, 4)] if whole else [])
    steps = ((128, 4), (256, 3), (128, 6)) if not whole else ((128, 3), (128, 4), (128, 6), (256, 3), (256, 4))
    shapes = [(rows, warps, 8, *step) for rows, warps in blocks for step in steps]
    shapes += [(64, 4, 16, 128, 6), (64, 4, 16, 128, 3), (64, 4, 16, 256, 3)]
    return tuple(
        Tile(rows, tokens, depth, parts, warps, stages)
        for parts in ((1,) if whole else (4, 8))
        for rows, warps, tokens, depth, stages in shapes
    )


def _wide(form: Format, group: int, *, whole: bool) -> tuple[Tile, ...]:
    """Return large blocks."""
    del whole
    shallow, deep = 64, 128
    if group <= 256:
        depth = shallow if form == "bf16" else deep
        blocks = ((128, 64, 8), (64, 64, 4), (128, 128, 8), (64, 128, 4))
        return tuple(
            Tile(r, t, depth, parts, warps, stages) for r, t, warps in blocks for parts in (1, 2) for stages in (3, 4)
        )
    if form == "bf16":
        cuts = [
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
    else:
        cuts = [
            (128, 128, deep, 8, 3),
            (128, 128, deep, 8, 4),
            (128, 128, deep, 16, 4),
            (128, 256, deep, 16, 3),
            (256, 128, deep, 16, 3),
            (64, 256, deep, 8, 3),
            (128, 64, deep, 4, 4),
            (256, 64, deep, 8, 3),
        ]
        if form == "fp8":
            cuts += [(128, 128, 256, 8, 3), (128, 256, shallow, 16, 4)]
    return tuple(Tile(r, t, depth, 1, warps, stages) for r, t, depth, warps, stages in cuts)
