"""Checks and times the kernels on a Hopper GPU, with the repository, torch and Triton only.

    python benchmarks/hopper.py [--out DIR] [--only SECTION …] [--quick] [--budget SECONDS] [--fresh] [--ranks N]

Every kernel is compared with its twin in fp64 on fresh random inputs; each is timed at Scout's shapes, with inputs
rotated beyond the L2 cache, beside torch's own; Scout itself, at full size with random weights made on the device,
decodes and reads prompts, in int4 and in FP8; its profile is compared with the kernels' own times. Work beyond the
budget is skipped and listed; failures are recorded as data. All numbers go to the card's own file (`h100.json`,
`h200.json`) in DIR, by default `benchmarks/results`, after each measurement, and a short table is printed last.

With TRITON_INTERPRET=1 it rehearses everything on the CPU, with tiny shapes; the times, which are meaningless, go to
`rehearsal.json`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "backends"), str(Path(__file__).parent)]

import torch  # noqa: E402
import triton  # noqa: E402
from hopper_checks import run_checks  # noqa: E402
from hopper_clock import Budget, alive, one_line  # noqa: E402
from hopper_compile import Workers  # noqa: E402
from hopper_consistency import consistency  # noqa: E402
from hopper_inputs import FORMATS, REHEARSAL, SIZES  # noqa: E402
from hopper_model import line as model_line  # noqa: E402
from hopper_model import run_model  # noqa: E402
from hopper_ranks import line as rank_line  # noqa: E402
from hopper_ranks import run_ranks  # noqa: E402
from hopper_times import Ceilings, Row, measure_ceilings, run_kernels  # noqa: E402
from hopper_times import line as kernel_line  # noqa: E402

from llama4_local.ops.kernels.tiles import Format  # noqa: E402

SECTIONS: tuple[str, ...] = ("checks", "int4", "kernels", "fp8")
CHECKS = ("checks", "consistency")
QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"


def main() -> int:
    """Run the selected sections; the exit status is 1 where a kernel is wrong or measurements contradict each other."""
    given = arguments()
    if not REHEARSAL and (not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9):
        sys.exit("A Hopper GPU is needed; without one, tests/kernels proves the kernels.")
    budget = Budget(given.budget)
    results = Results(given.out, fresh=given.fresh)
    workers = None if REHEARSAL else Workers()
    sections = given.only or SECTIONS
    only_models = set(sections) <= set(FORMATS)  # checks and timings need all formats
    formats: tuple[Format, ...] = tuple(name for name in FORMATS if name in sections) if only_models else FORMATS
    compiling = workers.start_scout(formats) if workers and not given.ranks else []
    results.put(machine=machine(), started=time.strftime("%Y-%m-%d %H:%M:%S"))
    ceilings = measure_ceilings()
    rates = {"copy_bytes_per_second": ceilings.copy, "bf16_flops": ceilings.bf16, "fp8_flops": ceilings.fp8}
    results.put(ceilings=rates)
    print(f"ceilings measured, {budget.left:.0f} s left", flush=True)
    compiled(compiling, budget)
    if given.ranks:
        results.put(ranks=list(run_ranks(given.ranks, ceilings, budget)))
    for section in () if given.ranks else sections:
        run_section(section, results, ceilings, budget, quick=given.quick)
        if not alive():
            print(f"the GPU takes no more work after {section}", flush=True)
            go_on_after(section, given, budget)
            break
    if workers:
        workers.close()
    results.put(clocks_after=clocks(), skipped=budget.skipped, seconds=given.budget - budget.left)
    results.put(consistency=compared(results.held))
    show(results.held)
    return 0 if all(check["right"] for name in CHECKS for check in rows(results.held, name)) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", help="these sections, in this order")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and batches")
    parser.add_argument("--budget", type=float, default=3600, help="seconds for everything")
    parser.add_argument("--ranks", type=int, help="measure one of so many ranks, and nothing else")
    parser.add_argument("--fresh", action="store_true", help="drop the results of earlier runs")
    return parser.parse_args()


def compiled(work: list[Future[int]], budget: Budget) -> None:
    """Wait for the compilers for half of the time left; later binaries are compiled at their first launch."""
    begun = time.monotonic()
    done, late = wait(work, timeout=budget.left / 2)
    failed = sum(future.exception() is not None for future in done)
    took = time.monotonic() - begun
    print(f"waited {took:.0f} s for compilers: {len(late)} late, {failed} failed; {budget.left:.0f} s left", flush=True)


def run_section(section: str, results: Results, ceilings: Ceilings, budget: Budget, *, quick: bool) -> None:
    """Run one section; each row is saved at once."""
    if not budget.allows(f"section {section}", 5):
        return
    begun = time.monotonic()
    kept: dict[str, Iterator[Row]] = {
        "checks": run_checks(budget, quick=quick),
        "kernels": run_kernels(ceilings, budget, quick=quick),
        "int4": run_model("int4", ceilings, budget, quick=quick),
        "fp8": run_model("fp8", ceilings, budget, quick=quick),
    }
    name = f"model_{section}" if section in ("int4", "fp8") else section
    results_so_far: list[Row] = []
    try:
        for row in kept[section]:
            results_so_far.append(row)
            results.put(**{name: results_so_far})
    except Exception as problem:  # noqa: BLE001 - the other sections run after any exception
        print(f"FAILED {section}: {one_line(problem)}", flush=True)
        results.put(
            **{name: [*results_so_far, {"kernel": section, "case": "", "right": False, "exception": one_line(problem)}]}
        )
    print(f"{section} took {time.monotonic() - begun:.0f} s, {budget.left:.0f} s left", flush=True)


def go_on_after(section: str, given: argparse.Namespace, budget: Budget) -> None:
    """Run the remaining sections in a new process, since this one's CUDA context has ended."""
    order = list(given.only or SECTIONS)
    rest = order[order.index(section) + 1 :]
    if not rest or budget.left < 20:
        return
    command = [sys.executable, __file__, "--out", str(given.out), "--budget", f"{budget.left - 5:.0f}", "--only", *rest]
    subprocess.run([*command, *(["--quick"] if given.quick else [])], check=False)
    sys.exit(1)


def compared(results: dict[str, object]) -> list[Row]:
    """Return the checks of each format's profile against the kernels' own times; a rehearsal has none."""
    if REHEARSAL:
        return []
    kernels = rows(results, "kernels")
    models = (rows(results, name) for name in ("model_int4", "model_fp8"))
    return [check for model in models for check in consistency(model, kernels, SIZES.context)]


def card_name(gpu: str) -> str:
    """Return the name of a card's results file: `h100`, `h200`, else the GPU's whole name in one word."""
    known = [name for name in ("H100", "H200") if re.search(rf"\b{name}\b", gpu)]
    return known[0].lower() if known else re.sub(r"[^a-z0-9]+", "_", gpu.lower()).strip("_")


class Results:
    """The results file of this card, which keeps the sections of earlier runs.

    Args:
        folder: The file's folder.
        fresh: Whether to drop earlier runs.
    """

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = "rehearsal" if REHEARSAL else card_name(torch.cuda.get_device_name())
        self._path = folder / f"{name}.json"
        self.held: dict[str, object] = json.loads(self._path.read_text()) if self._path.exists() and not fresh else {}

    def put(self, **results: object) -> None:
        """Add results and write the file, so that a run which ends early keeps them."""
        self.held |= results
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.held, indent=1) + "\n")
        partial.replace(self._path)


def machine() -> dict[str, object]:
    """Return versions and the GPU's properties."""
    if REHEARSAL:
        return {"gpu": "none: rehearsal", "torch": torch.__version__, "triton": triton.__version__}
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
    """Return driver, clocks and power from nvidia-smi; an empty dict where it does not run."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(QUERY.split(","), output.strip().split(", "), strict=False))


def show(results: dict[str, object]) -> None:
    """Print the table."""
    ceilings = results["ceilings"]
    if isinstance(ceilings, dict):
        print("\n" + ", ".join(f"{name} {value:.3g}" for name, value in ceilings.items()))
    for name in CHECKS:
        for check in rows(results, name):
            if not check["right"]:
                print(f"WRONG {check['kernel']} {check['case']}: {check.get('exception') or check['error']}")
    for row in rows(results, "kernels"):
        print(kernel_line(row))
    for row in (*rows(results, "model_int4"), *rows(results, "model_fp8")):
        print(model_line(row))
    for row in rows(results, "ranks"):
        print(rank_line(row))
    checks = rows(results, "checks")
    print(f"{sum(bool(check['right']) for check in checks)} of {len(checks)} checks right")
    print(f"skipped: {results['skipped'] or 'nothing'}", flush=True)


def rows(results: dict[str, object], name: str) -> list[Row]:
    section = results.get(name, [])
    return section if isinstance(section, list) else []


if __name__ == "__main__":
    sys.exit(main())
