"""Kernel launches: run on the current stream, or recorded for ahead-of-time compilation.

A launcher checks its tensors and calls `launch(kernel, grid, …)(arguments)`. Inside `recording()` launches are
collected and nothing runs, and launchers accept tensors on torch's meta device. `aot/compiled.py` compiles the
launches that are recorded there, so that it compiles the ones that serving makes.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

Scalar = int | float | bool | str | None
Argument = Tensor | int | float | None | tuple[Tensor | None, ...]
Constant = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch.

    Args:
        kernel: A function decorated by `triton.jit`.
        grid: Programs along each axis.
        arguments: Run-time arguments by parameter name: tensors, numbers, named tuples of tensors.
        constants: Compile-time arguments (`tl.constexpr`) by parameter name.
        warps: Warps per program.
        stages: Depth of the software pipeline.
        matmul: Whether the kernel must use Hopper's matrix units (HGMMA, QGMMA).
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


# Products may be fused with additions; a kernel is placed while the one before it runs, see `overlap.py`.
OPTIONS: Mapping[str, bool] = {"enable_fp_fusion": True, "launch_pdl": True}

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
    kernel: Any, grid: tuple[int, ...], *, warps: int = 4, stages: int = 1, matmul: bool = False
) -> Callable[..., None]:
    """Return a function that launches a kernel on the current stream; see `Launch` for the parameters.

    The function takes the kernel's run-time arguments by position and its compile-time arguments by keyword.
    """

    def start(*arguments: Argument, **constants: Constant) -> None:
        recorder = _recorder.get()
        if recorder is None:
            kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages, **OPTIONS)
            return
        x, y, z = (*grid, 1, 1)[:3]
        by_name = dict(zip(kernel.arg_names, arguments, strict=False))
        recorder.append(Launch(kernel, (x, y, z), by_name, constants, warps, stages, matmul))

    return start


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
