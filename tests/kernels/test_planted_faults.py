"""The interpreted tests fail where a kernel's arithmetic is wrong: each fault is planted into a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from long_runs import LONG

pytest.importorskip("triton", reason="Triton comes for Linux only")

ROOT = Path(__file__).parents[2]
KERNELS = Path("llama4_local/ops/kernels")

# file of the kernel, its correct code, the fault in its place, file and -k expression of a test that must fail
FAULTS = [
    ("arithmetic", "less_8(words & 0xF), less_8", "less_8(words & 0x7), less_8", "test_linear", "every_int4_group"),
    ("down", "group == groups - 1, SPLITS", "group == groups, SPLITS", "test_experts", "down_returns"),
    ("attention_decode", "exp2(best - top)", "exp2(top - best)", "test_attention", "attention_matches_its_twin"),
    ("heads", "even * sine[None, :] + odd", "even * sine[None, :] - odd", "test_attention", "qkv_epilogue_matches"),
    (
        "routing",
        "tl.where(other < block, hits, 0)",
        "tl.where(other <= block, hits, 0)",
        "test_experts",
        "sorts_tokens",
    ),
    ("norms", "tl.sum(x * x, 0) / SIZE", "tl.sum(x * x, 0) / WIDTH", "test_norms", "rms_norm_matches"),
    ("digit_tallies", "count_above += tl.sum", "count_above -= tl.sum", "test_thresholds", "sorted_weights"),
    ("threshold_search", "candidates, edge + 1, True", "candidates, edge, True", "test_thresholds", "sorted_weights"),
    ("sampling", "kept & (mass > target)", "kept & (mass < target)", "test_sampling", "draw_matches_its_twin"),
]


PLANTED = FAULTS if LONG else FAULTS[::8]


@pytest.mark.parametrize(("file", "right", "wrong", "tests", "expression"), PLANTED, ids=[one[0] for one in PLANTED])
def test_a_wrong_kernel_fails_its_tests(
    file: str, right: str, wrong: str, tests: str, expression: str, tmp_path: Path
) -> None:
    copied = tmp_path / "backends"
    shutil.copytree(ROOT / "backends" / "llama4_local", copied / "llama4_local", ignore=shutil.ignore_patterns("nano"))
    kernel = copied / KERNELS / f"{file}.py"
    source = kernel.read_text()
    assert source.count(right) == 1
    kernel.write_text(source.replace(right, wrong))
    case = Path(__file__).parent / "interpreted" / f"{tests}.py"
    options = [
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--import-mode=importlib",
        "-o",
        f"pythonpath=tests {copied}",
    ]
    command = [sys.executable, "-m", "pytest", *options, str(case), "-k", expression]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-4000:]
    assert "1 failed" in done.stdout
