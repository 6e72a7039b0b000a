"""The two ways to divide the experts of a network among ranks, beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4_local.planning.floors import step_floor

if TYPE_CHECKING:
    from llama4_local.planning.machines import Machine
    from llama4_local.planning.sizing import Sizing

_POWERS = 18  # up to 131,072 tokens in a step


@dataclass(frozen=True, slots=True)
class ExpertWay:
    """One way to divide them.

    Args:
        weights: Bytes of a rank's weights.
        shared: Of these, bytes of shared experts.
        link_bytes: Bytes that a rank gets from the others for each token of a step.
    """

    weights: int
    shared: int
    link_bytes: int


@dataclass(frozen=True, slots=True)
class ExpertWays:
    """Slices of every expert on each rank, and whole experts (`expert_parallel=True`).

    Args:
        divided: The former.
        whole: The latter.
        whole_from: Tokens of a step, a power of two, from which on whole experts take less time: reading weights, those
            of the rank that reads most, and the links at their bandwidth, without latency, computing and cache. None
            where the machine's bandwidths are not known, or no step is so long.
    """

    divided: ExpertWay
    whole: ExpertWay
    whole_from: int | None


def compare(divided: Sizing, whole: Sizing, machine: Machine) -> ExpertWays:
    """Compare the same network in both ways on a machine."""
    steps = [2**power for power in range(_POWERS)]
    slower = [tokens for tokens in steps if not _faster(divided, whole, machine, tokens)]
    later = [tokens for tokens in steps if tokens > max(slower, default=0)]
    return ExpertWays(_way(divided), _way(whole), min(later, default=None))


def _faster(divided: Sizing, whole: Sizing, machine: Machine, tokens: int) -> bool:
    """Whether a step takes less time with whole experts."""
    if machine.link is None:
        return False
    times = [step_floor(sizing, 1, tokens, machine).seconds for sizing in (divided, whole)]
    return None not in times and (times[1] or 0.0) < (times[0] or 0.0)


def _way(sizing: Sizing) -> ExpertWay:
    weights = sizing.weights()
    return ExpertWay(weights.total, weights.shared, sizing.link_bytes(1))
