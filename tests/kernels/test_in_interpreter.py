"""Each kernel against its twin in Triton's interpreter, in processes of their own.

Triton reads the interpreter's switch when it is imported, and some other test may have imported it before.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("triton", reason="Triton comes for Linux only")

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "interpreted"
FILES = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "conftest.py")

Runs = dict[str, "Future[subprocess.CompletedProcess[str]]"]


def run(file: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(FOLDER / file)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {file: pool.submit(run, file) for file in FILES}


@pytest.mark.parametrize("file", FILES)
def test_kernels_do_what_their_twins_do(file: str, runs: Runs) -> None:
    done = runs[file].result()
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
