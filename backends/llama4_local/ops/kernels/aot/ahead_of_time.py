# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: its compiler takes and returns plain dictionaries.
"""Compiles a planned launch for Hopper as Triton would at its first start, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llama4_local.ops.kernels.aot.machine_code import MachineCode, inspect

if TYPE_CHECKING:
    from llama4_local.ops.kernels.launch import Argument, Constant, Launch

_HOPPER = GPUTarget("cuda", 90, 32)
_POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


@dataclass(frozen=True, slots=True)
class Specialization:
    """What Triton compiles one binary for.

    Args:
        types: Type of each parameter by name, `constexpr` for compile-time ones.
        constants: Values of those.
        aligned: Parameters that are multiples of 16.
        warps: Warps of a program.
        stages: Depth of the software pipeline.
    """

    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Constant], ...]
    aligned: tuple[str, ...]
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel's binary and what it says."""

    cubin: bytes
    code: MachineCode


def specialize(launch: Launch) -> Specialization:
    """Return what Triton would compile for a launch: integers of 1 become constants, multiples of 16 are noted."""
    types: dict[str, str] = {}
    constants: dict[str, Constant] = {}
    aligned: list[str] = []
    for parameter in launch.kernel.params:
        name = parameter.name
        if name in launch.constants:
            types[name], constants[name] = "constexpr", launch.constants[name]
            continue
        value = launch.arguments[name]
        kind = _kind(value, parameter.do_not_specialize)
        types[name] = kind
        if isinstance(value, Tensor):
            aligned.append(name)
        elif kind == "constexpr":
            constants[name] = value
        elif isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize:
            aligned.append(name)
    return Specialization(tuple(types.items()), tuple(constants.items()), tuple(aligned), launch.warps, launch.stages)


def compile_launch(launch: Launch) -> Compiled:
    """Compile a planned launch for sm_90a."""
    wanted = specialize(launch)
    names = [name for name, _ in wanted.types]
    source = ASTSource(
        launch.kernel,
        dict(wanted.types),
        dict(wanted.constants),
        {(names.index(name),): [["tt.divisibility", 16]] for name in wanted.aligned},
    )
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=_HOPPER, options=options)
    cubin = compiled.asm["cubin"]
    return Compiled(cubin, inspect(cubin, compiled.metadata.shared))


def _kind(value: Argument, plain: bool) -> str:
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype]
    if value is None or (value == 1 and isinstance(value, int) and not plain):
        return "constexpr"
    if isinstance(value, float):
        return "fp32"
    return "i32" if value < 2**31 else "i64"
