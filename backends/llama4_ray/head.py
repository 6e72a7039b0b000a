"""A cluster on this machine, in a process of its own: `python -m llama4_ray.head`.

Ray ties the processes of a cluster to the thread that starts them, and that thread must be a main thread. The process
prints the cluster's address, and ends with the cluster when its standard input ends, so also when its parent dies.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def main() -> None:
    """Start the cluster, print its address, and wait for the end of standard input."""
    # Ray lets its workers give way to every other process (niceness 15). Where those that a replica sends to are on the
    # same machine, each token that it writes then wakes its reader at once, and waits for it.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    context: Any = ray.init(
        log_to_driver=False, configure_logging=False, include_dashboard=False, _node_ip_address="127.0.0.1"
    )
    sys.stdout.write(f"{context.address_info['gcs_address']}\n")
    sys.stdout.flush()
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
