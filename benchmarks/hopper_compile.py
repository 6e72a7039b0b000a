"""Compiles kernels in many processes before their first launch, into Triton's cache on disk.

A worker installs a driver that reports a Hopper GPU, and goes through Triton's own launch of a kernel, up to the start
on the GPU, with tensors without storage. Its binaries have the cache keys of the real launches.
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
from llama4_local.ops.kernels.arrivals import arrival_counters
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.launch import OPTIONS, Launch
from llama4_local.ops.kernels.tile_table import TRIALS, TileTable
from llama4_local.ops.kernels.tiles import Format

TOKENS = (1, 3, 4, 5, 8, 16, 17, 64, 100, 256, 300, 2048, 8192)


@dataclass(frozen=True, slots=True)
class Usage:
    """A binary's registers per thread, bytes of stack per thread, and bytes of shared memory."""

    registers: int
    stack: int
    shared: int


class _HopperWithoutGpu:
    """A driver that reports a Hopper GPU and cannot launch."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


def target_hopper() -> None:
    """Make this process compile for Hopper, whatever GPU it has."""
    from triton.runtime.driver import driver

    driver.set_active(_HopperWithoutGpu())  # pyright: ignore[reportArgumentType]


def compile_one(launch: Launch) -> Usage:
    """Compile a recorded launch as its start would; `target_hopper` comes first."""
    compiled: Any = launch.kernel.warmup(
        **launch.arguments,
        **launch.constants,
        grid=launch.grid,
        num_warps=launch.warps,
        num_stages=launch.stages,
        **OPTIONS,
    )
    with contextlib.suppress(Exception):  # the stub in C that starts it; only where there is a CUDA driver
        from triton.backends.nvidia.driver import CudaLauncher

        CudaLauncher(compiled.src, compiled.metadata)
    registers, stack = resources(compiled.asm["cubin"])
    return Usage(registers, stack, int(compiled.metadata.shared))


def scout_launches(formats: Sequence[Format] = FORMATS) -> list[Launch]:
    """Return one launch for each binary that checks, timings and the model need in these formats."""
    binaries: dict[object, Launch] = {}
    from llama4_local.ops.kernels.aot.ahead_of_time import specialize

    for launch in _scout(formats):
        binaries.setdefault((launch.name, specialize(launch)), launch)
    return list(binaries.values())


def _scout(formats: Sequence[Format]) -> list[Launch]:
    shape, launches = SHAPES[0], list[Launch]()
    tried = [TileTable(trials=frozenset({name})) for name in sorted(TRIALS)]
    for tiles in (TileTable(), TileTable(deterministic=True), *tried):
        ops = KernelOps(tiles, arrival_counters("meta"))
        for weight_format in formats:
            for tokens in TOKENS:
                launches += matrix_launches(shape, weight_format, tokens, ops)
        for cache in (torch.bfloat16, torch.float8_e4m3fn):
            for tokens in TOKENS:
                launches += attention_launches(shape, cache, tokens, ops)
    return launches + sampling_launches(shape)


def compile_share(first: int, step: int, formats: Sequence[Format]) -> int:
    """Compile every `step`th of the launches from the `first` on; return the number of failures."""
    torch.set_num_threads(1)
    target_hopper()
    failures = 0
    for launch in scout_launches(formats)[first::step]:
        try:
            compile_one(launch)
        except Exception as error:  # noqa: BLE001 - the launch raises it again, and its result records it
            print(f"{launch.name} does not compile: {type(error).__name__}: {str(error)[:300]}", flush=True)
            failures += 1
    return failures


class Workers:
    """Processes that compile while the GPU is busy."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or max(1, (os.cpu_count() or 2) - 1)
        self._pool = ProcessPoolExecutor(self.count, mp_context=multiprocessing.get_context("spawn"))

    def start_scout(self, formats: Sequence[Format] = FORMATS) -> list[Future[int]]:
        """Start compiling all launches of the scripts in these formats."""
        return [self._pool.submit(compile_share, first, self.count, formats) for first in range(self.count)]

    def start(self, work: Callable[..., Any], *columns: Sequence[Any]) -> list[Future[Any]]:
        """Start calls of a function that a new process can import, one for each row of the columns."""
        return [self._pool.submit(work, *row) for row in zip(*columns, strict=True)]

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
