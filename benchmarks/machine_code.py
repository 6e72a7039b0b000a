"""Puts the registers and occupancy of every compiled kernel into `docs/kernels.md`.

python -m llama4_local.ops.kernels.aot.compiled --out build/cubins --report benchmarks/results/sm90a.json
python benchmarks/machine_code.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict, cast

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "benchmarks" / "results" / "sm90a.json"
PAGE = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- machine code: begin -->\n", "<!-- machine code: end -->\n"
TILE_FIELDS = ("ROWS", "TOKENS", "QUERIES", "KEYS", "DEPTH", "SPLITS")


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
    """Return one line for each kernel, format and tile config; the largest of those that differ in shapes only."""
    columns = ("kernel", "values", "tile config", "warps", "stages", "registers", "spills", "shared, KB")
    lines = [f"| {' | '.join(columns)} | programs on a multiprocessor |", "|" + "---|" * 9]
    grouped: dict[tuple[str, str, str, int, int], list[Kernel]] = {}
    for kernel in kernels:
        config = kernel["config"]
        key = (kernel["name"], values(config), tile(config), number(config["warps"]), number(config["stages"]))
        grouped.setdefault(key, []).append(kernel)
    for (name, number_format, shape, warps, stages), binaries in grouped.items():
        registers, spills = max(k["registers"] for k in binaries), max(k["spills"] for k in binaries)
        shared = max(k["shared"] for k in binaries) / 1024
        programs = min(k["programs_per_multiprocessor"] for k in binaries)
        used = f"{registers} | {spills} | {shared:.1f} | {programs}"
        lines.append(f"| {name} | {number_format} | {shape} | {warps} | {stages} | {used} |")
    return "\n".join(lines) + "\n"


def values(config: dict[str, int | str | bool | None]) -> str:
    """Return the format of a binary's weights or cache."""
    if "FORMAT" in config:
        return str(config["FORMAT"])
    return {"*fp8e4nv": "fp8 cache", "*bf16": "bf16 cache"}.get(str(config.get("cache.keys", config.get("keys"))), "")


def tile(config: dict[str, int | str | bool | None]) -> str:
    """Return a kernel's block sizes."""
    return " ".join(f"{name.lower()} {config[name]}" for name in TILE_FIELDS if name in config)


def number(value: int | str | bool | None) -> int:
    """Return a value that is a whole number."""
    return int(value or 0)


if __name__ == "__main__":
    main()
