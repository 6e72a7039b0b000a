"""How many replicas there are: pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama4sdk.checks import check_number, check_whole
from llama4sdk.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Scaling:
    """Bounds for the number of replicas, and the queue by which it is chosen.

    Args:
        least: Fewest replicas.
        most: Most replicas.
        queue: Running requests for each replica, beyond which another one is started.
        idle: Seconds for which fewer replicas must suffice before one is stopped.

    Raises:
        InvalidRequest: For bounds that make no sense.
    """

    least: int
    most: int
    queue: int = 16
    idle: float = 60.0

    def __post_init__(self) -> None:
        check_whole("min_replicas", self.least, 1, optional=False)
        check_whole("max_replicas", self.most, 1, optional=False)
        check_whole("queue", self.queue, 1, optional=False)
        check_number("idle", self.idle, 0, math.inf)
        if self.least > self.most:
            raise InvalidRequest(f"min_replicas ({self.least}) is above max_replicas ({self.most}).")


class Scaler:
    """Decides on the number of replicas as the queue changes.

    Args:
        scaling: Its bounds.
        now: The time.
    """

    def __init__(self, scaling: Scaling, now: float) -> None:
        self._scaling = scaling
        self._busy_at = now  # when all replicas were last needed

    def target(self, replicas: int, running: int, now: float) -> int:
        """Return how many replicas there shall be.

        Args:
            replicas: How many there are, those that are starting included.
            running: Requests that run or wait.
            now: The time.
        """
        bounds = self._scaling
        needed = max(bounds.least, min(math.ceil(running / bounds.queue), bounds.most))
        if needed >= replicas:
            self._busy_at = now
            return max(needed, replicas) if replicas <= bounds.most else bounds.most
        return replicas - 1 if now - self._busy_at >= bounds.idle else replicas
