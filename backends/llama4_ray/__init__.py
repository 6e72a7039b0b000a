"""Replicas of a backend on a Ray cluster, as one backend; needs the extra `ray`.

RayBackend     the backend
Scaling        how many replicas there are, by the length of the queue
open_backend   what `Llama4("ray:local:/models/scout", replicas=2)` calls
"""

from __future__ import annotations

from typing import Any

from llama4_ray.backend import RayBackend, split_options
from llama4_ray.scaling import Scaling

__all__ = ["RayBackend", "Scaling", "open_backend"]


def open_backend(target: str = "ray", /, **options: Any) -> RayBackend:
    """Return the backend that `ray:local:/models/scout` names: replicas of what stands behind `ray:`.

    Args:
        target: The string as the user wrote it; `ray` alone for replicas of `local`.
        options: Those of `RayBackend`; all others go to the backend in each replica.

    Raises:
        InvalidRequest: For options that cannot be used.
    """
    _, _, spec = target.partition(":")
    own, others = split_options(options)
    return RayBackend(spec or "local", **own, **others)
