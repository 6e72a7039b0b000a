"""Proposals for a model that does not fit; every proposal is worked out before it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama4_local.config.share import divides, possible_sizes
from llama4_local.planning.machines import MACHINES
from llama4_local.planning.sizes import show_bytes
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from llama4_local.config.formats import WeightFormat
    from llama4_local.planning.machines import Machine
    from llama4_local.planning.sizing import Sizing

CHANGES = ("quantize", "cache_dtype", "ranks", "context", "sequences", "memory")
_SMALLER: tuple[WeightFormat, ...] = ("fp8", "int4")


@dataclass(frozen=True, slots=True)
class Gap:
    """The bytes that do not fit.

    Args:
        sizing: The network and its formats.
        machine: Where it was to run.
        memory: Bytes that it may take.
        context: Tokens of each sequence.
        sequences: Sequences at once.
        reserve: Share of a memory that is left free.
        changes: What may be proposed, out of `CHANGES`.
    """

    sizing: Sizing
    machine: Machine
    memory: int
    context: int
    sequences: int
    reserve: float
    changes: Collection[str] = CHANGES

    def closed_by(self, sizing: Sizing) -> bool:
        """Whether it would fit in other formats."""
        return sizing.needed(self.context, self.sequences) <= self.memory


def advise(gap: Gap) -> tuple[str, ...]:
    """Return what would make it fit, one sentence each."""
    proposals = {
        "quantize": _formats,
        "cache_dtype": _cache_type,
        "ranks": _divided,
        "sequences": _fewer,
        "context": _shorter,
        "memory": _more,
    }
    return tuple(sentence for name, propose in proposals.items() if name in gap.changes for sentence in propose(gap))


def _formats(gap: Gap) -> Iterator[str]:
    for quantize in _SMALLER:
        try:
            smaller = gap.sizing.changed(quantize=quantize)
            saved = gap.sizing.weights().total - smaller.weights().total
        except InvalidRequest:  # its matrices cannot be packed that way
            continue
        if saved <= 0:
            continue
        if gap.closed_by(smaller):
            yield f"quantize='{quantize}' makes it fit."
        elif "cache_dtype" in gap.changes and gap.closed_by(smaller.changed(cache_dtype="fp8")):
            yield f"quantize='{quantize}' with cache_dtype='fp8' makes it fit."
        elif longest := smaller.longest_context(gap.memory, gap.sequences):
            yield f"quantize='{quantize}' makes it fit with context={longest}."


def _cache_type(gap: Gap) -> Iterator[str]:
    if gap.sizing.cache_dtype != "fp8" and gap.closed_by(gap.sizing.changed(cache_dtype="fp8")):
        yield "cache_dtype='fp8' makes it fit."


def _divided(gap: Gap) -> Iterator[str]:
    """Propose the other way to divide experts, and the fewest ranks that would do, of those who plan for several."""
    sizing = gap.sizing
    if sizing.share.size == 1 or sizing.stored is not None:
        return
    whole = sizing.share.whole_experts
    slices = replace(sizing, share=replace(sizing.share, whole_experts=False))
    if whole and divides(slices.config, slices.share, quantize=slices.quantize) and gap.closed_by(slices):
        yield "expert_parallel=False makes it fit."
    for ranks in possible_sizes(sizing.config, quantize=sizing.quantize, whole_experts=whole):
        if ranks > sizing.share.size and gap.closed_by(sizing.over(ranks)):
            yield f"tensor_parallel={ranks} makes it fit."
            return


def _fewer(gap: Gap) -> Iterator[str]:
    most = gap.sizing.most_sequences(gap.memory, gap.context)
    if most:
        yield f"sequences={most} fits."


def _shorter(gap: Gap) -> Iterator[str]:
    longest = gap.sizing.longest_context(gap.memory, gap.sequences)
    if longest:
        yield f"context={longest} fits."


def _more(gap: Gap) -> Iterator[str]:
    memory = gap.sizing.needed(gap.context, gap.sequences) / (1 - gap.reserve)
    ranks = gap.sizing.share.size
    if gap.machine.reference:
        yield f"A memory of {show_bytes(ranks * memory)}{' for all ranks' if ranks > 1 else ''} would do."
        return
    large = [machine for machine in MACHINES.values() if (machine.memory or 0) >= memory]
    smallest = min(large, key=lambda machine: machine.memory or 0, default=None)
    there = "no single GPU known here has it"
    if smallest:
        there = f"{ranks} × {smallest.name} have it" if ranks > 1 else f"one {smallest.name} has it"
    yield f"A memory of {f'{ranks} × ' if ranks > 1 else ''}{show_bytes(memory)} would do; {there}."
