# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: its compiler takes and returns plain dictionaries.
"""Compiles a recorded launch for Hopper as Triton's JIT compiles it at its first launch, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llama4_local.ops.kernels.aot.machine_code import MachineCode, inspect
from llama4_local.ops.kernels.launch import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

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

Type = str | tuple["Type", ...]
Path = tuple[int, ...]  # position of a parameter, then of an element in a tuple


@dataclass(frozen=True, slots=True)
class Specialization:
    """The inputs of Triton's compiler: equal ones share a binary.

    Args:
        types: Type of each parameter by name, `constexpr` for compile-time ones; a tuple for a named tuple.
        constants: Values of compile-time parameters and elements, by path.
        aligned: Paths of pointers and integers that are multiples of 16.
        warps: Warps per program.
        stages: Depth of the software pipeline.
    """

    types: tuple[tuple[str, Type], ...]
    constants: tuple[tuple[Path, Constant], ...]
    aligned: tuple[Path, ...]
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel's binary and its machine code's properties."""

    cubin: bytes
    code: MachineCode


def specialize(launch: Launch) -> Specialization:
    """Return the specialization of Triton's JIT: integers of 1 and None become constants, multiples of 16 hints."""
    types: dict[str, Type] = {}
    constants: dict[Path, Constant] = {}
    aligned: list[Path] = []
    for index, parameter in enumerate(launch.kernel.params):
        name = parameter.name
        if name in launch.constants:
            types[name], constants[index,] = "constexpr", launch.constants[name]
            continue
        plain = parameter.do_not_specialize
        types[name] = _type(launch.arguments[name], plain)
        for path, value in _leaves(launch.arguments[name], (index,)):
            if isinstance(value, Tensor):
                aligned.append(path)
            elif _type(value, plain) == "constexpr":
                constants[path] = value
            elif isinstance(value, int) and value % 16 == 0 and not plain:
                aligned.append(path)
    return Specialization(tuple(types.items()), tuple(constants.items()), tuple(aligned), launch.warps, launch.stages)


def compile_launch(launch: Launch) -> Compiled:
    """Compile a recorded launch for sm_90a."""
    special = specialize(launch)
    source = ASTSource(
        launch.kernel,
        dict(special.types),
        dict(special.constants),
        {path: [["tt.divisibility", 16]] for path in special.aligned},
    )
    options = {"num_warps": launch.warps, "num_stages": launch.stages, **OPTIONS}
    compiled = triton.compile(source, target=_HOPPER, options=options)
    cubin = compiled.asm["cubin"]
    return Compiled(cubin, inspect(cubin, compiled.metadata.shared))


def _leaves(value: Argument, path: Path) -> Iterator[tuple[Path, Tensor | float | None]]:
    if isinstance(value, tuple):
        for index, element in enumerate(value):
            yield from _leaves(element, (*path, index))
    else:
        yield path, value


def _type(value: Argument, plain: bool) -> Type:
    if isinstance(value, tuple):
        named_tuple: Any = type(value)
        return named_tuple(*(_type(element, plain) for element in value))
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype]
    if value is None or (value == 1 and isinstance(value, int) and not plain):
        return "constexpr"
    if isinstance(value, float):
        return "fp32"
    return "i32" if value < 2**31 else "i64"
