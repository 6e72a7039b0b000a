"""The command line of the planner: `python -m llama4_local.plan scout --memory 141GB --quantize int4 --context 1M`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from llama4_local.planning.host import available_memory
from llama4_local.planning.machines import MACHINES
from llama4_local.planning.planner import plan
from llama4sdk.errors import BackendMissing, LlamaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

FITS, FITS_NOT, REFUSED = 0, 1, 2  # exit statuses


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a plan and return the exit status: 0 where it fits, 1 where it does not, 2 for what makes no sense."""
    options = _parser().parse_args(arguments)
    if options.machine == "this":
        options.machine, options.memory = this_machine(options.memory, options.tensor_parallel or 1)
    try:
        console = _console()
        result = plan(
            options.model,
            memory=options.memory,
            quantize=options.quantize,
            cache_dtype=options.cache_dtype,
            head_dtype=options.head_dtype,
            context=options.context,
            sequences=options.sequences,
            dtype=options.dtype,
            machine=options.machine,
            bandwidth=options.bandwidth,
            step_tokens=options.step_tokens,
            tensor_parallel=options.tensor_parallel,
            expert_parallel=options.expert_parallel,
        )
    except LlamaError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    from llama4_local.planning.table import print_plan

    print_plan(result, console)
    return FITS if result.fits else FITS_NOT


def this_machine(memory: str | None = None, ranks: int = 1) -> tuple[str, str | None]:
    """Return the name and memory of this machine for a plan: its GPU where one of the known ones is there, else `cpu`.

    Args:
        memory: The memory that was asked for; None for the machine's.
        ranks: Number of ranks, which share a CPU's memory, and have a GPU each.
    """
    name = _gpu_name().lower().replace(" ", "-")
    for known in sorted(MACHINES, key=len, reverse=True):
        if known != "cpu" and known in name:
            return known, memory
    several = f"{ranks}x" if ranks > 1 else ""
    return "cpu", memory or f"{several}{available_memory() // max(ranks, 1) // 10**6}MB"


def _gpu_name() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    asked = [command, "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama4 plan",
        description="What a Llama 4 takes in memory, whether it fits, and how fast it can be at best.",
    )
    parser.add_argument("model", help="scout, maverick, guard-4, nano, a checkpoint folder or a config.json")
    parser.add_argument(
        "--memory", help="141GB (powers of 1000), 80GiB (powers of 1024), 8x80GB for 8 ranks; default: the machine's"
    )
    parser.add_argument("--tensor-parallel", type=int, help="ranks that divide the network; default: as --memory says")
    parser.add_argument(
        "--expert-parallel", action="store_true", help="ranks have whole experts; default: slices of all"
    )
    parser.add_argument("--quantize", choices=("int4", "fp8"), help="how weights are packed; default: not at all")
    parser.add_argument(
        "--cache",
        dest="cache_dtype",
        choices=("auto", "bf16", "fp16", "fp32", "fp8"),
        default="auto",
        help="type of cache",
    )
    parser.add_argument(
        "--head", dest="head_dtype", choices=("auto", "fp8"), default="auto", help="type of output head"
    )
    parser.add_argument("--context", help="tokens of each sequence: 8192, 128K (128,000), 1M, 1Mi (1,048,576)")
    parser.add_argument("--sequences", type=int, default=1, help="sequences at once; default: 1")
    parser.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto", help="type of plain weights"
    )
    parser.add_argument("--machine", default="h200", help="h200 (default), h100, a100-80gb, …, cpu, this")
    parser.add_argument("--bandwidth", help="of its memory, as in 4.3TB/s; default: the machine's")
    parser.add_argument("--step-tokens", type=int, help="most tokens in a step; default: what the engine takes there")
    return parser


def _console() -> Console:
    try:
        from rich.console import Console
    except ModuleNotFoundError as error:
        raise BackendMissing(
            "Tables on the terminal need rich. Install it with: pip install 'llama4sdk[local]'", backend="local"
        ) from error
    return Console(highlight=False)
