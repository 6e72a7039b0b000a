"""Runs the benchmarks that need no GPU, one after the other: `make bench`. Best on an idle machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CPU = (
    "stream_overhead",
    "first_answer",
    "local_cpu",
    "long_context",
    "thousand_streams",
    "masks",
    "speculation",
    "packed_accuracy",
    "loading",
    "server_overhead",
    "guards",
)


def main() -> int:
    """Run all of them; the exit status says how many failed."""
    failed = 0
    for name in CPU:
        print(f"\n{name}", flush=True)
        failed += bool(
            subprocess.run([sys.executable, str(HERE / f"{name}.py")], cwd=HERE.parent, check=False).returncode
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
