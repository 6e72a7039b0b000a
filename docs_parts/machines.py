"""The table of which model runs on which machine, from the planner."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import llama4_local
from llama4_local.planning.machines import MACHINES

if TYPE_CHECKING:
    from llama4_local.config.formats import WeightFormat

_SHORT = 8192  # tokens: the context for which a model fits or does not
_CPU_MEMORY = (64, 128, 256)  # GB


class Choice(NamedTuple):
    """A model in one weight format."""

    model: str
    quantize: WeightFormat | None
    title: str


_CHOICES = (
    Choice("guard-4", "int4", "Guard 4 int4"),
    Choice("guard-4", None, "Guard 4 bf16"),
    Choice("scout", "int4", "Scout int4"),
    Choice("scout", "fp8", "Scout FP8"),
    Choice("scout", None, "Scout bf16"),
    Choice("maverick", "int4", "Maverick int4"),
)


def table() -> str:
    """Return the table: the longest context on Hopper GPUs, elsewhere whether 8,192 tokens fit."""
    titles = ("machine", "memory", *(choice.title for choice in _CHOICES))
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for gigabytes, names in _gpus(hopper=True).items():
        cells = [_context(choice, names[0]) for choice in _CHOICES]
        lines.append(f"| **{', '.join(names)}** | {gigabytes} GB | {' | '.join(cells)} |")
    for gigabytes, names in {**_gpus(hopper=False), **{size: ["CPU"] for size in _CPU_MEMORY}}.items():
        cells = ["yes" if _fits(choice, gigabytes) else "–" for choice in _CHOICES]
        lines.append(f"| {', '.join(names)} | {gigabytes} GB | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _gpus(*, hopper: bool) -> dict[int, list[str]]:
    """Return the planner's GPUs by gigabytes of memory, the largest first."""
    named: dict[int, list[str]] = {}
    for machine in sorted(MACHINES.values(), key=lambda each: -(each.memory or 0)):
        if machine.memory is not None and machine.name.startswith("H") == hopper:
            named.setdefault(machine.memory // 10**9, []).append(machine.name)
    return named


def _context(choice: Choice, machine: str) -> str:
    made = llama4_local.plan(choice.model, quantize=choice.quantize, machine=machine, context=_SHORT)
    return f"{min(made.longest_single, made.model_context) // 1000:,}K" if made.fits else "–"


def _fits(choice: Choice, gigabytes: int) -> bool:
    """Return whether a model fits beside the copies that the reference functions make."""
    memory = f"{gigabytes}GB"
    return llama4_local.plan(choice.model, quantize=choice.quantize, machine="cpu", memory=memory, context=_SHORT).fits
