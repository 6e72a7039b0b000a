"""Compiles every kernel that serving launches for sm_90a and checks its machine code.

    python -m llama4_local.ops.kernels.aot.compiled --out DIR [--report FILE] [--only NAME]

DIR gets each cubin and a `manifest.json`. The exit status is 1 where a check fails.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama4_local.ops.kernels.aot.ahead_of_time import Specialization, Type, compile_launch, specialize
from llama4_local.ops.kernels.aot.machine_code import MachineCode, MachineCodeError, occupancy
from llama4_local.ops.kernels.aot.serving import SHAPES, Shape, serving_launches
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.ops.kernels.launch import Constant, Launch, Scalar


@dataclass(frozen=True, slots=True)
class Plan:
    """A binary to build.

    Args:
        launch: One of the launches that run it.
        models: The models that make such launches.
    """

    launch: Launch
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A binary on disk.

    Args:
        name: The kernel.
        cubin: File name.
        code: Its machine code's properties.
        matmul: Whether it must use the matrix units.
        config: Its compile-time parameters, pointers' types, warps and stages.
        models: The models that launch it.
        problems: The rules that it breaks.
    """

    name: str
    cubin: str
    code: MachineCode
    matmul: bool
    config: dict[str, Scalar]
    models: tuple[str, ...]
    problems: tuple[str, ...]


@cache
def plans() -> tuple[Plan, ...]:
    """Return every binary that serving the published models needs, once each."""
    return _plans(SHAPES)


@cache
def rank_plans(ranks: int) -> tuple[Plan, ...]:
    """Return the binaries that one of so many ranks of Scout or Maverick needs beside those of `plans`."""
    known = {(plan.launch.name, specialize(plan.launch)) for plan in plans()}
    shapes = [shape.share(ranks) for shape in SHAPES if shape.experts]
    return tuple(plan for plan in _plans(shapes) if (plan.launch.name, specialize(plan.launch)) not in known)


def _plans(shapes: Sequence[Shape]) -> tuple[Plan, ...]:
    binaries: dict[tuple[str, Specialization], tuple[Launch, dict[str, None]]] = {}
    for shape in shapes:
        for launch in serving_launches(shape):
            _, models = binaries.setdefault((launch.name, specialize(launch)), (launch, {}))
            models[shape.name] = None
    ordered = sorted(binaries.items(), key=lambda item: (item[0][0], repr(item[0][1])))
    return tuple(Plan(launch, tuple(models)) for _, (launch, models) in ordered)


def build(index: int, folder: str) -> Built:
    """Compile one of `plans()` into a folder."""
    plan = plans()[index]
    compiled = compile_launch(plan.launch)
    name = plan.launch.name
    file_name = f"{index:03}_{name}.cubin"
    (Path(folder) / file_name).write_bytes(compiled.cubin)
    problems = tuple(compiled.code.problems(name, matmul=plan.launch.matmul))
    return Built(name, file_name, compiled.code, plan.launch.matmul, _config(plan.launch), plan.models, problems)


def build_all(folder: Path, *, only: str | None = None, every: int = 1, workers: int | None = None) -> list[Built]:
    """Compile all plans, or those of one kernel, in several processes, and write the manifest.

    Args:
        folder: Where the binaries go.
        only: A kernel's name; all kernels where left out.
        every: Of each kernel's plans, every so many-th is compiled, from the first on.
        workers: Processes; by default one for each processor.

    Raises:
        InvalidRequest: No kernel is called `only`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_kernel: dict[str, list[int]] = {}
    for index, plan in enumerate(plans()):
        if only in (None, plan.launch.name):
            by_kernel.setdefault(plan.launch.name, []).append(index)
    indices = [index for of_kernel in by_kernel.values() for index in of_kernel[::every]]
    if not indices:
        raise InvalidRequest(f"no kernel is called {only!r}; there are {', '.join(_names())}")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count() or 1, mp_context=context) as pool:
        built = list(pool.map(build, indices, [str(folder)] * len(indices)))
    manifest = {"kernels": [_entry(one) for one in built]}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return built


def check(built: Sequence[Built]) -> None:
    """Raise unless every binary keeps the rules of `MachineCode.problems`.

    Raises:
        MachineCodeError: It lists every problem.
    """
    wrong = [f"{one.cubin} {one.config}: {problem}" for one in built for problem in one.problems]
    if wrong:
        raise MachineCodeError("\n".join(["machine code breaks its rules:", *wrong]))


def report(built: Sequence[Built]) -> list[dict[str, object]]:
    """Return registers, shared memory and occupancy of each binary, ready for JSON."""
    return [
        {key: value for key, value in _entry(one).items() if key != "cubin"}
        | {"programs_per_multiprocessor": occupancy(one.code, int(one.config["warps"] or 1)), "models": one.models}
        for one in built
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see the module's first lines."""
    parser = argparse.ArgumentParser(
        prog="llama4_local.ops.kernels.aot.compiled", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for cubins and manifest.json")
    parser.add_argument("--report", type=Path, help="JSON file for registers and occupancy")
    parser.add_argument("--only", help="one kernel's name")
    parser.add_argument("--workers", type=int, help="processes; by default one for each processor")
    given = parser.parse_args(arguments)
    built = build_all(given.out, only=given.only, workers=given.workers)
    if given.report:
        _write_report(given.report, built)
    sys.stdout.write(f"{len(built)} binaries in {given.out}\n")
    try:
        check(built)
    except MachineCodeError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def _write_report(path: Path, built: Sequence[Built]) -> None:
    import triton

    content = {"target": "sm_90a", "triton": triton.__version__, "kernels": report(built)}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _entry(one: Built) -> dict[str, object]:
    return {
        "name": one.name,
        "cubin": one.cubin,
        "shared": one.code.shared,
        "registers": one.code.registers,
        "spills": one.code.stack,
        "matmul": one.matmul,
        "config": one.config,
    }


def _config(launch: Launch) -> dict[str, Scalar]:
    """Return a binary's parameters by name: elements of a compile-time tuple by their own, pointers by path."""
    config: dict[str, Scalar] = {}
    for name, value in launch.constants.items():
        config |= {field.upper(): element for field, element in _elements(name, value)}
    for name, kind in specialize(launch).types:
        for field, element in _elements(name, kind):
            path = f"{name}.{field}" if isinstance(kind, tuple) else name
            config |= {path: element} if str(element).startswith("*") else {}
    return config | {"warps": launch.warps, "stages": launch.stages}


def _elements(name: str, value: Constant | Type) -> list[tuple[str, Any]]:
    """Return the fields of a named tuple by name, or the value itself."""
    if not isinstance(value, tuple):
        return [(name, value)]
    fields: tuple[str, ...] = getattr(value, "_fields")  # noqa: B009 - kernels take named tuples only
    return list(zip(fields, value, strict=True))


def _names() -> list[str]:
    return sorted({plan.launch.name for plan in plans()})


if __name__ == "__main__":
    sys.exit(main())
