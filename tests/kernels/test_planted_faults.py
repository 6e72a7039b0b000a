"""The interpreter tests fail where a kernel's arithmetic is wrong: each fault is planted into a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton comes for Linux only")

ROOT = Path(__file__).parents[2]
KERNELS = Path("llama4_local/ops/kernels")

# file, what stands there, what is put there instead, tests that must fail
FAULTS = [
    ("arithmetic.py", "less_8(words & 0xF), less_8", "less_8(words & 0x7), less_8", "linear.py", "every_size_of_group"),
    (
        "down.py",
        "group == groups - 1, SPLITS",
        "group == groups, SPLITS",
        "experts.py",
        "answer",
    ),
    ("attention_decode.py", "fade = tl.exp2(best - top)", "fade = tl.exp2(top - best)", "attention.py", "is_its_twins"),
    ("heads.py", "even * sine[None, :] + odd", "even * sine[None, :] - odd", "attention.py", "heads_are_treated"),
    ("routing.py", "tl.where(other < block, hits, 0)", "tl.where(other <= block, hits, 0)", "experts.py", "sorted"),
    ("norms.py", "tl.sum(x * x, 0) / SIZE", "tl.sum(x * x, 0) / WIDTH", "rows.py", "norm_is_its_twins"),
]


@pytest.mark.parametrize(("file", "right", "wrong", "tests", "chosen"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_wrong_kernel_fails_its_tests(
    file: str, right: str, wrong: str, tests: str, chosen: str, tmp_path: Path
) -> None:
    copied = tmp_path / "backends"
    shutil.copytree(ROOT / "backends" / "llama4_local", copied / "llama4_local", ignore=shutil.ignore_patterns("nano"))
    source = (copied / KERNELS / file).read_text()
    assert source.count(right) == 1
    (copied / KERNELS / file).write_text(source.replace(right, wrong))
    case = Path(__file__).parent / "interpreted" / tests
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(case), "-k", chosen, "-o", f"pythonpath=tests {copied}"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-4000:]
    assert "1 failed" in done.stdout
