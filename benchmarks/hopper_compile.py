"""Compiles kernels in many processes before they are first launched, into Triton's cache on disk.

A worker pretends to have a Hopper GPU: it goes through Triton's own start of a kernel, up to the launch, on
tensors without storage. What it compiles has the key that the real start looks for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from llama4_local.ops.kernels.aot.machine_code import resources
from llama4_local.ops.kernels.aot.serving import FORMATS, SHAPES, attention_launches, matrix_launches, sampling_launches
from llama4_local.ops.kernels.choices import Choices
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.launch import Launch

TOKENS = (1, 3, 4, 5, 8, 16, 17, 64, 100, 256, 300, 2048, 8192)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a binary takes: registers of a thread, bytes of its stack, bytes of shared memory."""

    registers: int
    stack: int
    shared: int


class _Pretended:
    """A driver with a Hopper GPU that nothing can be launched on."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


def pretend() -> None:
    """Make this process compile for Hopper, whatever it has."""
    from triton.runtime.driver import driver

    driver.set_active(_Pretended())  # pyright: ignore[reportArgumentType]


def compile_one(launch: Launch) -> Usage:
    """Compile a planned launch as its start would; `pretend` comes first."""
    compiled: Any = launch.kernel.warmup(
        **launch.arguments,
        **launch.constants,
        grid=launch.grid,
        num_warps=launch.warps,
        num_stages=launch.stages,
        enable_fp_fusion=True,
    )
    with contextlib.suppress(Exception):  # the stub in C that starts it; only where there is a CUDA driver
        from triton.backends.nvidia.driver import CudaLauncher

        CudaLauncher(compiled.src, compiled.metadata)
    registers, stack = resources(compiled.asm["cubin"])
    return Usage(registers, stack, int(compiled.metadata.shared))


def scout_launches() -> list[Launch]:
    """Return one launch for each binary that checks, timings and the model need."""
    found: dict[object, Launch] = {}
    from llama4_local.ops.kernels.aot.ahead_of_time import specialize

    for launch in _scout():
        found.setdefault((launch.name, specialize(launch)), launch)
    return list(found.values())


def _scout() -> list[Launch]:
    shape, launches = SHAPES[0], list[Launch]()
    for choices in (Choices(), Choices(deterministic=True)):
        ops = KernelOps(choices)
        for form in FORMATS:
            for tokens in TOKENS:
                launches += matrix_launches(shape, form, tokens, ops)
        for cache in (torch.bfloat16, torch.float8_e4m3fn):
            for tokens in TOKENS:
                launches += attention_launches(shape, cache, tokens, ops)
    return launches + sampling_launches(shape)


def compile_share(first: int, step: int) -> int:
    """Compile every `step`th of the launches from the `first` on; return how many went wrong."""
    torch.set_num_threads(1)
    pretend()
    wrong = 0
    for launch in scout_launches()[first::step]:
        try:
            compile_one(launch)
        except Exception as error:  # noqa: BLE001 - whoever launches it will see the error again, and record it
            print(f"{launch.name} does not compile: {type(error).__name__}: {str(error)[:300]}", flush=True)
            wrong += 1
    return wrong


class Workers:
    """Processes that compile while the GPU does something else."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or max(1, (os.cpu_count() or 2) - 1)
        self._pool = ProcessPoolExecutor(self.count, mp_context=multiprocessing.get_context("spawn"))

    def start_scout(self) -> list[Future[int]]:
        """Begin with everything that the scripts launch."""
        return [self._pool.submit(compile_share, first, self.count) for first in range(self.count)]

    def start(self, work: Callable[..., Any], *columns: Sequence[Any]) -> list[Future[Any]]:
        """Begin with calls of a function that a new process can import, one for each row of the columns."""
        return [self._pool.submit(work, *row) for row in zip(*columns, strict=True)]

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
