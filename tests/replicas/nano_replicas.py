"""Replicas of nano on a cluster of this machine, and their violent end."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from llama4_ray import RayBackend, cluster


def nano_replicas(**options: Any) -> RayBackend:
    """Return a backend of two replicas of nano, each on one thread."""
    settled: dict[str, Any] = {"replicas": 2, "cpus": 0.1, "threads": 1, "context": 2048}
    return RayBackend("local", **(settled | options))


def kill_one(backend: RayBackend) -> None:
    """Kill the process of one replica."""
    import ray

    ray.kill(next(iter(backend.placed)).actor)


@contextmanager
def one_cluster() -> Generator[None]:
    """Keep a cluster for several tests, since starting one takes seconds."""
    connection = cluster.connect(None)
    try:
        yield
    finally:
        connection.close()
