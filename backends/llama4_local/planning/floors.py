"""The least time of a step, from the bytes that it reads and, over ranks, those that travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4_local.planning.machines import Machine
    from llama4_local.planning.sizing import Sizing


@dataclass(frozen=True, slots=True)
class StepFloor:
    """The least that one step costs which gives every sequence of a batch its next token.

    Args:
        batch: Sequences.
        weight_bytes: Bytes of weights that it reads, experts as expected for equally likely ones; of ranks with whole
            experts, those of the rank that reads most.
        cache_bytes: Bytes of keys and values that it reads.
        seconds: How long reading them takes, and the links, where their bandwidth is known; None where the memory's
            is not.
        link_bytes: Bytes that a rank gets from the others: their parts of the sums, and rows of whole experts.
        link_seconds: How long the links take at their bandwidth, without their latency; None where it is not known.
    """

    batch: int
    weight_bytes: int
    cache_bytes: int
    seconds: float | None
    link_bytes: int = 0
    link_seconds: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of the whole batch, at most."""
        return None if self.seconds is None else self.batch / self.seconds


def step_floor(sizing: Sizing, context: int, batch: int, machine: Machine) -> StepFloor:
    """Return the floor of a step of `batch` sequences of `context` tokens."""
    weights, cache = sizing.step_bytes(context, batch)
    links = sizing.link_bytes(batch)
    waiting = None if machine.link is None else links / machine.link
    seconds = None if machine.bandwidth is None else (weights + cache) / machine.bandwidth + (waiting or 0.0)
    return StepFloor(batch, round(weights), round(cache), seconds, links, waiting)
