"""A cluster of this machine alone, on 127.0.0.1, in a process of its own: `python -m llama4_ray.head`.

Ray ties the processes of a cluster to the thread that starts them, and that thread must be a main thread. The process
prints the cluster's address, or why there is none, and ends with the cluster when its standard input ends, so also when
its parent dies.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

_BEYOND = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # off, the node's address is 127.0.0.1, on every system
FAILED = "failed: "
"""Begins the line that tells why no cluster was started."""


def main() -> int:
    """Start the cluster, print its address, and wait for the end of standard input; return the exit status."""
    # Ray lets its workers give way to every other process (niceness 15). Where those that a replica sends to are on the
    # same machine, each token that it writes then wakes its reader at once, and waits for it.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ[_BEYOND] = "0"  # read when Ray is imported: it takes 127.0.0.1, given by hand, for the outer address
    import ray

    try:
        with one_at_a_time():
            context: Any = ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    except Exception as error:  # noqa: BLE001 - the process's edge: its parent gets the reason
        sys.stdout.write(f"{FAILED}{type(error).__name__}: {' '.join(str(error).split())[:500]}\n")
        return 1
    # Ray would turn 127.0.0.1 into the outer address in the process that connects; IPv6's name of it stays.
    port = str(context.address_info["gcs_address"]).rpartition(":")[2]
    sys.stdout.write(f"[::ffff:127.0.0.1]:{port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    ray.shutdown()
    return 0


@contextmanager
def one_at_a_time() -> Generator[None]:
    """Wait for other starts of this user: Ray gives up a cluster that is not up after 30 seconds."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = Path(tempfile.gettempdir()) / f"llama4_ray_{os.getuid()}.lock"
    lock: int | None = None
    with suppress(OSError):  # without it, starts get in each other's way only where the machine is slow
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


if __name__ == "__main__":
    sys.exit(main())
