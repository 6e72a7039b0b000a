# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""RMS norm of the residual stream, fused with the addition of the preceding layer's output; sums of parts alone."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import rounded
from llama4_local.ops.kernels.launch import ceil_div, contiguous, launch, power_above, require
from llama4_local.ops.kernels.overlap import release_next_kernel, wait_for_inputs

_SUMMED = 1024  # numbers


@triton.jit(do_not_specialize=["count"])
def _norm_kernel(
    update,  # [PARTS, count, SIZE], or None
    residual,  # [count, SIZE]
    weight,  # [SIZE]
    normed,  # [count, SIZE]
    total,  # [count, SIZE]; not written without an update
    count,
    eps,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
):
    wait_for_inputs()
    row = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    mask = column < SIZE
    place = row * SIZE + column
    x = tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    gain = tl.load(weight + column, mask=mask, other=0.0)  # in flight while the parts are summed
    for part in tl.static_range(PARTS):
        x += tl.load(update + (part * count).to(tl.int64) * SIZE + place, mask=mask, other=0.0).to(tl.float32)
    if PARTS > 0:
        stored = rounded(x, total.dtype.element_ty)
        tl.store(total + place, stored, mask=mask)
        x = stored.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / SIZE + eps)
    release_next_kernel()
    # Cast back before the weight, as the published network does.
    value = rounded(x * scale, normed.dtype.element_ty).to(tl.float32) * gain
    tl.store(normed + place, rounded(value, normed.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count"])
def _sum_parts_kernel(
    parts,  # [PARTS, count, SIZE]
    total,  # [count, SIZE]
    count,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,  # numbers of a program, of whatever rows
    PARTS: tl.constexpr,
):
    wait_for_inputs()
    numbers = count * SIZE
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < numbers
    x = tl.load(parts + place, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        x += tl.load(parts + part * numbers.to(tl.int64) + place, mask=mask, other=0.0).to(tl.float32)
    release_next_kernel()
    tl.store(total + place, rounded(x, total.dtype.element_ty), mask=mask)


def sum_parts(parts: Tensor) -> Tensor:
    """Return [tokens, size] in bf16: the sum of [parts, tokens, size], taken in fp32 in their order, rounded once."""
    contiguous(parts=parts)
    number, count, size = parts.shape
    total = parts.new_empty((count, size), dtype=torch.bfloat16)
    launch(_sum_parts_kernel, (ceil_div(count * size, _SUMMED),))(
        parts, total, count, SIZE=size, BLOCK=_SUMMED, PARTS=number
    )
    return total


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x [tokens, hidden] over its root mean square, times `weight` [hidden]; see `Ops.rms_norm`."""
    normed = torch.empty_like(x)
    _launch(None, x, weight, eps, normed, None)
    return normed


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the norm of x + residual, and that sum; see `Ops.add_rms_norm`.

    Args:
        x: [tokens, hidden], or [parts, tokens, hidden] as split matrix kernels return it, bf16 or fp32: parts are added
            to the residual in their order, in fp32, and the sum is rounded once.
        residual: [tokens, hidden], bf16.
        weight: [hidden].
        eps: Added to the mean square.
    """
    normed, total = torch.empty_like(residual), torch.empty_like(residual)
    _launch(x if x.dim() == 3 else x[None], residual, weight, eps, normed, total)
    return normed, total


def _launch(
    update: Tensor | None, residual: Tensor, weight: Tensor, eps: float, normed: Tensor, total: Tensor | None
) -> None:
    count, size = residual.shape
    require(update is None or update.shape[1:] == residual.shape, "the update's rows must match the residual's")
    contiguous(update=update, residual=residual, weight=weight)
    width = power_above(size)
    launch(_norm_kernel, (count,), warps=16 if width > 4096 else 8 if width > 2048 else 4)(
        update, residual, weight, normed, total, count, eps,
        SIZE=size, WIDTH=width, PARTS=0 if update is None else update.shape[0],
    )  # fmt: skip
