"""Replicas of nano on a cluster of this machine, and their violent end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from llama4_ray import RayBackend, cluster
from llama4_ray.cluster import Placed
from llama4_ray.settings import Settings

NANO: dict[str, Any] = {"replicas": 2, "cpus": 0.1, "threads": 1, "context": 2048}


def nano_replicas(**options: Any) -> RayBackend:
    """Return a backend of two replicas of nano, each on one thread."""
    return RayBackend("local", **(NANO | options))


def kill(placed: Placed) -> None:
    """Kill the process of a replica."""
    import ray

    ray.kill(placed.actor)


def kill_one(backend: RayBackend) -> None:
    """Kill the process of one replica."""
    kill(backend.placed[0])


def pid_of(placed: Placed) -> int:
    """Return the process of a replica."""
    import ray

    pid: Callable[[object], int] = lambda _: os.getpid()  # noqa: E731 - a named function would be looked up by name
    return int(ray.get(placed.actor.__ray_call__.remote(pid)))


def listening_addresses(pid: int) -> set[str]:
    """Return the addresses on which a process and those below it listen, in the kernel's digits."""
    sockets: set[str] = set()
    for process in _family(pid):
        with suppress(OSError):  # it has ended
            sockets |= {str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def _family(pid: int) -> list[int]:
    below = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    return [pid, *(process for child in below for process in _family(child))]


@contextmanager
def one_cluster() -> Generator[None]:
    """Keep a cluster for several tests, since starting one takes seconds."""
    connection = cluster.connect(None)
    try:
        yield
    finally:
        connection.close()


class Kept:
    """Replicas that outlive the backends which hold them, since starting one takes seconds too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[object, Placed]] = []
        self._of: dict[Placed, object] = {}
        self._place, self._stop = cluster.place, cluster.stop
        self.started = 0

    def place(self, settings: Settings, abandoned: threading.Event) -> Placed:
        kind = repr((settings, settings.options))
        with self._lock:
            for entry in self._idle:
                if entry[0] == kind and not cluster.dead([entry[1]]):
                    self._idle.remove(entry)
                    return entry[1]
            self.started += 1
        placed = self._place(settings, abandoned)
        self._of[placed] = kind
        return placed

    def stop(self, placed: Placed) -> None:
        with self._lock:
            self._idle.append((self._of[placed], placed))

    def end(self) -> None:
        """End the replicas that no backend holds, and give their room back."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, placed in idle:
            self._stop(placed)

    @contextmanager
    def used(self) -> Generator[None]:
        """Let backends take these replicas, and give them back when they would stop them."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "place", self.place)
            patch.setattr(cluster, "stop", self.stop)
            yield
