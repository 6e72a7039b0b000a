"""Checks and times the kernels on a Hopper GPU; needs nothing but the repository, torch and Triton.

    python benchmarks/hopper.py [--out DIR] [--only checks|kernels|model] [--quick] [--budget SECONDS]

First every kernel is compared with its twin in fp64 on fresh random inputs; then each is timed at Scout's
shapes, with inputs rotated beyond the L2 cache, beside torch's own; then Scout itself, at full size with
random weights made on the device, decodes and reads prompts. Processes side by side compile the kernels first.
A short table comes last, and all numbers go to `h200.json` (or `h100.json`) in DIR, by default
`benchmarks/results`, after each part.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "backends"), str(Path(__file__).parent)]

import torch  # noqa: E402
import triton  # noqa: E402
from hopper_checks import run_checks  # noqa: E402
from hopper_model import run_model  # noqa: E402
from hopper_times import Ceilings, Share, measure_ceilings, run_kernels  # noqa: E402

QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"


def main() -> int:
    """Run what was asked for; the exit status is 1 where a kernel is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--only", choices=("checks", "kernels", "model"))
    parser.add_argument("--quick", action="store_true", help="fewer shapes and batches")
    parser.add_argument("--forms", nargs="+", default=["int4", "fp8"], choices=["int4", "fp8"], help="Scout's formats")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which kernels are left out")
    parser.add_argument("--warm", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        sys.exit("A Hopper GPU is needed; without one, tests/kernels proves the kernels.")
    # I/N compiles a share and times nothing; done times only.
    if given.warm and given.warm != "done":
        return warm_up(given)
    until = time.monotonic() + given.budget
    if not given.warm:
        compile_all(given)
    results: dict[str, object] = {"machine": machine()}
    if given.only in (None, "checks"):
        results["checks"] = run_checks(quick=given.quick)
    ceilings = measure_ceilings()
    results["ceilings"] = {
        "copy_bytes_per_second": ceilings.copy,
        "bf16_flops": ceilings.bf16,
        "fp8_flops": ceilings.fp8,
    }
    save(given.out, results)
    if given.only in (None, "kernels"):
        results["kernels"] = run_kernels(ceilings, quick=given.quick, until=until)
        save(given.out, results)
    if given.only in (None, "model"):
        results["model"] = run_model(ceilings, given.forms, quick=given.quick)
    results["clocks_after"] = clocks()
    save(given.out, results)
    show(results, ceilings)
    return 1 if any(not check["right"] for check in rows(results, "checks")) else 0


def compile_all(given: argparse.Namespace) -> None:
    """Compile what is going to be timed, in processes side by side; their results lie in Triton's cache."""
    count = max(1, min(10, (os.cpu_count() or 1) - 2))
    command = [sys.executable, __file__, *(["--only", given.only] if given.only else [])]
    command += ["--quick"] if given.quick else []
    command += ["--forms", *given.forms]
    workers = [subprocess.Popen([*command, "--warm", f"{index}/{count}"], stdout=subprocess.DEVNULL)
               for index in range(count)]  # fmt: skip
    for worker in workers:
        worker.wait()


def warm_up(given: argparse.Namespace) -> int:
    """Call each kernel of this process's share once."""
    index, count = map(int, given.warm.split("/"))
    ceilings = Ceilings(1.0, 1.0, 1.0, warm=True)
    if given.only in (None, "model") and index < len(given.forms):
        run_model(ceilings, given.forms[index : index + 1], quick=given.quick)
    if given.only in (None, "kernels"):
        run_kernels(ceilings, quick=given.quick, share=Share(index, count))
    return 0


def machine() -> dict[str, object]:
    """Return versions and what the GPU says of itself."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "clocks": clocks(),
    }


def clocks() -> dict[str, str]:
    """Return driver, clocks and power as nvidia-smi sees them now; nothing where it does not run."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(QUERY.split(","), said.strip().split(", "), strict=False))


def save(folder: Path, results: dict[str, object]) -> None:
    """Write what was measured into the file of this kind of GPU, beside what it already holds."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("h200.json" if "H200" in torch.cuda.get_device_name() else "h100.json")
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(held | results, indent=1) + "\n")


def show(results: dict[str, object], ceilings: Ceilings) -> None:
    """Print the table."""
    rates = f"bf16 {ceilings.bf16 / 1e12:.0f}, FP8 {ceilings.fp8 / 1e12:.0f} TFLOP/s"
    print(f"\ncopy {ceilings.copy / 1e12:.2f} TB/s, {rates}")
    for check in rows(results, "checks"):
        if not check["right"]:
            print(f"WRONG {check['kernel']} {check['case']}: error {check['error']:.2e} above {check['limit']:.0e}")
    for row in rows(results, "kernels") + rows(results, "model"):
        if "error" in row:
            print(f"FAILED {row.get('kernel', row.get('format'))}: {row['error']}")
    for row in rows(results, "kernels"):
        if "error" in row:
            continue
        beside = f", torch {row['torch_us']:.0f} us" if row["torch_us"] else ""
        reached = f"{row['us']:>9.1f} us {row['fraction']:>6.0%} of {row['bound']}"
        print(f"{row['kernel']:<18}{row['case']:<28}{reached}{beside}")
    for row in rows(results, "model"):
        if "error" in row:
            continue
        print(
            f"Scout {row['format']:<5}{row['case']:<26}{row['ms']:>9.2f} ms {row['tokens_per_second']:>9.0f} tok/s "
            f"{row['fraction']:>5.0%} of the floor{' (graph)' if row['graph'] else ''}"
        )
    print(f"{sum(bool(check['right']) for check in rows(results, 'checks'))} checks right")


def rows(results: dict[str, object], name: str) -> list[dict[str, object]]:
    found = results.get(name, [])
    return found if isinstance(found, list) else []


if __name__ == "__main__":
    sys.exit(main())
