"""The choices of a `RayBackend`, checked where they are made: pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama4sdk.checks import check_number, check_text
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Settings:
    """The backend in each replica, and its share of the cluster.

    Args:
        spec: The backend in each replica.
        options: Its options.
        cpus: CPU cores for each.
        gpus: GPUs for each, all of one node.
        host: The address on which replicas listen; None for each node's own.
        start_seconds: Most seconds for a replica to be placed and to load.

    Raises:
        InvalidRequest: For choices out of range.
    """

    spec: str
    options: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    cpus: float = 1.0
    gpus: float = 0.0
    host: str | None = None
    start_seconds: float = 1800.0

    def __post_init__(self) -> None:
        check_text("The backend of a replica", self.spec, 4096)
        if self.spec.partition(":")[0] == "ray":
            raise InvalidRequest("A replica cannot be replicas again; name what runs in each, such as 'ray:local'.")
        check_number("cpus", self.cpus, 0, 100_000)
        check_number("gpus", self.gpus, 0, 1000)
        check_number("start_seconds", self.start_seconds, 0, math.inf, above=True)
