"""Many streams of nano at once, in a process of their own: all finish, within the memory that was planned."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from long_runs import often

ROOT = Path(__file__).resolve().parents[2]


def test_fault_59_many_streams_finish_within_the_planned_memory() -> None:
    streams = often(100, 1000)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.thousand_streams", "--streams", str(streams), "--max-tokens", "8"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{streams} of {streams} finished" in done.stdout
    together = re.search(r"(\d+) in the engine at once", done.stdout)
    assert together
    assert int(together[1]) > 64  # more than run in one batch
