"""Puts the registers and occupancy of every compiled kernel into `docs/performance.md`.

python -m llama4_local.ops.kernels.aot.compiled --out build/cubins --report benchmarks/results/sm90a.json
python benchmarks/machine_code.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict, cast

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "benchmarks" / "results" / "sm90a.json"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- machine code: begin -->\n", "<!-- machine code: end -->\n"
CUTS = ("ROWS", "TOKENS", "QUERIES", "KEYS", "DEPTH", "SPLITS")


class Kernel(TypedDict):
    """One binary of the report."""

    name: str
    shared: int
    registers: int
    spills: int
    matmul: bool
    config: dict[str, int | str | bool | None]
    programs_per_multiprocessor: int
    models: list[str]


def main() -> None:
    """Rewrite the page's table."""
    report = json.loads(REPORT.read_text())
    kernels = cast("list[Kernel]", report["kernels"])
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    made = f"Made with Triton {report['triton']} for {report['target']}: {len(kernels)} binaries.\n\n"
    PAGE.write_text(before + BEGIN + made + table(kernels) + END + after)


def table(kernels: list[Kernel]) -> str:
    """Return one line for each kernel, format and cut; the largest of those that differ in shapes only."""
    lines = [
        "| kernel | values | cut | warps | stages | registers | spills | shared, KB | programs on a multiprocessor |"
    ]
    lines.append("|" + "---|" * 9)
    grouped: dict[tuple[str, str, str, int, int], list[Kernel]] = {}
    for kernel in kernels:
        config = kernel["config"]
        key = (kernel["name"], values(config), cut(config), number(config["warps"]), number(config["stages"]))
        grouped.setdefault(key, []).append(kernel)
    for (name, kind, shape, warps, stages), found in grouped.items():
        registers, spills = max(k["registers"] for k in found), max(k["spills"] for k in found)
        shared = max(k["shared"] for k in found) / 1024
        programs = min(k["programs_per_multiprocessor"] for k in found)
        lines.append(
            f"| {name} | {kind} | {shape} | {warps} | {stages} | {registers} | {spills} | {shared:.1f} | {programs} |"
        )
    return "\n".join(lines) + "\n"


def values(config: dict[str, int | str | bool | None]) -> str:
    """Return the format of weights or cache that a binary is for."""
    if "FORMAT" in config:
        return str(config["FORMAT"])
    return {"*fp8e4nv": "fp8 cache", "*bf16": "bf16 cache"}.get(str(config.get("keys")), "")


def cut(config: dict[str, int | str | bool | None]) -> str:
    """Return the sizes that a kernel's work is cut into."""
    return " ".join(f"{name.lower()} {config[name]}" for name in CUTS if name in config)


def number(value: int | str | bool | None) -> int:
    """Return a value that is known to be a whole number."""
    return int(value or 0)


if __name__ == "__main__":
    main()
