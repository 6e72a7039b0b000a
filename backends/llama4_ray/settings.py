"""The choices of a `RayBackend`, checked where they are made: pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from llama4sdk.checks import check_number, check_text, check_whole
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Settings:
    """The backend in each replica, and its share of the cluster.

    Args:
        spec: The backend in each replica.
        options: Its options.
        cpus: CPU cores for each; None for one core for each of its ranks.
        gpus: GPUs for each, all of one node.
        host: The address on which replicas listen; None for each node's own.
        start_seconds: Most seconds for a replica to be placed and to load.

    Raises:
        InvalidRequest: For choices out of range.
    """

    spec: str
    options: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    cpus: float | None = None
    gpus: float = 0.0
    host: str | None = None
    start_seconds: float = 1800.0

    def __post_init__(self) -> None:
        check_text("The backend of a replica", self.spec, 4096)
        if self.spec.partition(":")[0] == "ray":
            raise InvalidRequest("A replica cannot be replicas again; name what runs in each, such as 'ray:local'.")
        check_whole("tensor_parallel", self.options.get("tensor_parallel", 1), 1, optional=False)
        check_number("cpus", self.cpus, 0, 100_000)
        check_number("gpus", self.gpus, 0, 1000)
        check_number("start_seconds", self.start_seconds, 0, math.inf, above=True)
        if 0 < self.gpus < self.ranks != 1:
            raise InvalidRequest(f"Each of {self.ranks} ranks takes a GPU: give gpus={self.ranks}, not {self.gpus:g}.")

    @property
    def ranks(self) -> int:
        """Processes of one replica."""
        return cast("int", self.options.get("tensor_parallel", 1))

    @property
    def share(self) -> Mapping[str, float]:
        """The part of a node that one replica takes, in Ray's words."""
        return {"CPU": float(self.ranks) if self.cpus is None else self.cpus, "GPU": self.gpus}

    def __str__(self) -> str:
        return f"{self.share['CPU']:g} CPUs and {self.share['GPU']:g} GPUs of one node"
