"""Room on a cluster: how many replicas it holds, and a placement group for each replica of several ranks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llama4_ray.settings import Settings


def capacity(share: Mapping[str, float], nodes: Iterable[Mapping[str, Any]]) -> int | None:
    """Return how many replicas nodes hold when nothing else runs on them; None without a bound.

    Args:
        share: What one replica takes of one node.
        nodes: As `ray.nodes()` returns them.
    """
    asked = {name: amount for name, amount in share.items() if amount}
    if not asked:
        return None
    return sum(
        min(math.floor(float(node["Resources"].get(name, 0)) / amount + 1e-6) for name, amount in asked.items())
        for node in nodes
        if node["Alive"]
    )


def largest(nodes: Iterable[Mapping[str, Any]]) -> str:
    """Return in words what the largest node has."""
    have = [(float(node["Resources"].get("GPU", 0)), float(node["Resources"].get("CPU", 0))) for node in nodes]
    gpus, cpus = max(have, default=(0.0, 0.0))
    return f"{cpus:g} CPUs and {gpus:g} GPUs"


def reserve(settings: Settings) -> Any:
    """Ask for a placement group of one replica: one bundle, so that all its ranks come to one node.

    Returns:
        The group, which may still wait for room; None for a replica of one process, or one that takes nothing.
    """
    bundle = {name: amount for name, amount in settings.share.items() if amount}
    if settings.ranks == 1 or not bundle:
        return None
    from ray.util import placement_group

    return placement_group([bundle], strategy="STRICT_PACK")


def inside(group: Any) -> dict[str, Any]:
    """Return the options of an actor that is to live in a group, if there is one."""
    if group is None:
        return {}
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)}


def release(group: Any) -> None:
    """Give a group's room back, if there is one; what still runs in it ends."""
    if group is not None:
        from ray.util import remove_placement_group

        remove_placement_group(group)
