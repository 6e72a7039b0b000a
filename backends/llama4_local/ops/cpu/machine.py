"""Machine code from LLVM's intermediate language, and the threads that run it: those of PyTorch's own OpenMP."""

from __future__ import annotations

import ctypes
import importlib
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SYMBOLS = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_parallel", "GOMP_barrier")
_FUSED = ("aarch64", "arm64")  # machines whose processors all have fused multiply-add
_DECLARED = """
declare i32 @omp_get_thread_num()
declare i32 @omp_get_num_threads()
declare void @GOMP_barrier()
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
declare float @llvm.fma.f32(float, float, float)
declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)
declare float @llvm.floor.f32(float)
declare <8 x float> @llvm.floor.v8f32(<8 x float>)
declare float @llvm.sqrt.f32(float)
"""


class UnavailableError(Exception):
    """No machine code can be made or run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Compiled functions.

    Args:
        kept: What owns their code.
        functions: By name.
        parallel: Runs a function on several threads: itself, its arguments, threads, flags.
    """

    kept: Any
    functions: dict[str, Any]
    parallel: Callable[[Any, Any, int, int], None]

    def run(self, name: str, *arguments: int, alone: bool = False) -> None:
        """Run a kernel on all of PyTorch's threads, or on the caller's alone.

        Not on some: OpenMP ends the threads that a region has no use for, and starts them anew for the next.
        """
        packed = (ctypes.c_int64 * len(arguments))(*arguments)
        if alone or (threads := torch.get_num_threads()) == 1:
            self.functions[name](packed)
        else:
            self.parallel(self.functions[name], packed, threads, 0)


def compiled(texts: Sequence[str], names: Sequence[str]) -> Machine:
    """Compile functions for this processor.

    Args:
        texts: The functions.
        names: Those that are run from outside.

    Raises:
        UnavailableError: Without llvmlite, without PyTorch's GNU OpenMP, or on a processor without fused products.
    """
    openmp = _openmp()
    llvm = _llvm()
    for symbol in _SYMBOLS:
        llvm.add_symbol(symbol, ctypes.cast(getattr(openmp, symbol), ctypes.c_void_p).value)
    module = llvm.parse_assembly("\n".join((_DECLARED, *texts)))
    module.verify()
    machine = _target(llvm)
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    parallel = openmp.GOMP_parallel
    parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    return Machine((engine, openmp), {name: kind(engine.get_function_address(name)) for name in names}, parallel)


def _target(llvm: Any) -> Any:
    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError as error:
        raise UnavailableError("LLVM cannot tell what this processor has") from error
    if platform.machine() not in _FUSED and not features.get("fma"):
        raise UnavailableError("this processor has no fused multiply-add")
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=2, jit=True)


@cache
def _llvm() -> Any:
    try:
        llvm: Any = importlib.import_module("llvmlite.binding")
    except ImportError as error:
        raise UnavailableError("llvmlite is not installed") from error
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def _openmp() -> Any:
    """Return the OpenMP that PyTorch has loaded, so that both share their threads; its own build before another one."""
    maps = Path("/proc/self/maps")
    loaded = (
        {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line} if maps.exists() else set()
    )
    if not loaded:
        raise UnavailableError("PyTorch runs without GNU OpenMP")
    own = str(Path(torch.__file__).parent.parent)
    return ctypes.CDLL(min(loaded, key=lambda path: (not path.startswith(own), path)))
