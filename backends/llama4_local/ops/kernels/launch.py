"""One way to start a kernel, so that what is compiled ahead of time is what serving starts.

A launcher checks its tensors and calls `launch`. Inside `recording()` nothing runs: launches are collected,
and launchers accept tensors on torch's meta device. `compiled.py` compiles exactly those.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

Argument = Tensor | int | float | None
Constant = int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a kernel.

    Args:
        kernel: A function decorated by `triton.jit`.
        grid: Programs along each axis.
        arguments: What it gets at run time, by parameter name.
        constants: Its compile-time parameters, by name.
        warps: Warps of each program.
        stages: Depth of the software pipeline over its loop.
        matmul: Whether it must use the matrix units.
    """

    kernel: Any
    grid: tuple[int, int, int]
    arguments: Mapping[str, Argument]
    constants: Mapping[str, Constant]
    warps: int
    stages: int
    matmul: bool

    @property
    def name(self) -> str:
        """The kernel's name without decoration."""
        return str(self.kernel.__name__).strip("_").removesuffix("_kernel")


_recorder: ContextVar[list[Launch] | None] = ContextVar("recorder", default=None)


@contextmanager
def recording() -> Generator[list[Launch]]:
    """Collect launches in the block instead of running them; yields the growing list."""
    launches: list[Launch] = []
    token = _recorder.set(launches)
    try:
        yield launches
    finally:
        _recorder.reset(token)


def launch(
    kernel: object,
    grid: tuple[int, ...],
    arguments: Mapping[str, Argument],
    constants: Mapping[str, Constant],
    *,
    warps: int = 4,
    stages: int = 1,
    matmul: bool = False,
) -> None:
    """Start a kernel on the current stream; see `Launch` for the arguments."""
    padded = (*grid, 1, 1)[:3]
    planned = Launch(kernel, (padded[0], padded[1], padded[2]), arguments, constants, warps, stages, matmul)
    recorder = _recorder.get()
    if recorder is not None:
        recorder.append(planned)
        return
    planned.kernel[planned.grid](**arguments, **constants, num_warps=warps, num_stages=stages, enable_fp_fusion=True)


def require(kept: bool, rule: str) -> None:
    """Raise `InvalidRequest` unless a launcher's rule about its tensors is kept."""
    if not kept:
        raise InvalidRequest(f"a kernel cannot take these tensors: {rule}")


def contiguous(**tensors: Tensor | None) -> None:
    """Require tensors, given by name, to be contiguous."""
    for name, tensor in tensors.items():
        require(tensor is None or tensor.is_contiguous(), f"{name} must be contiguous")


def ceil_div(count: int, size: int) -> int:
    """Return how many blocks of `size` hold `count`."""
    return -(-count // size)


def power_above(count: int) -> int:
    """Return the smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()
