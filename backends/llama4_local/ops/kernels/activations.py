# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Activations in e4m3 for FP8 weights, with one scale for each row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import LARGEST, rounded
from llama4_local.ops.kernels.launch import contiguous, launch, power_above
from llama4_local.ops.kernels.overlap import release_next_kernel, wait_for_inputs
from llama4_local.weights.quantized import LEAST_SCALE


@triton.jit
def _quantize_rows_kernel(
    x,  # [count, SIZE]
    out,  # [count, SIZE], e4m3
    scales,  # [count], fp32
    BOUND: tl.constexpr,
    LEAST: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    wait_for_inputs()
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    mask = column < SIZE
    value = tl.load(x + row * SIZE + column, mask=mask, other=0.0).to(tl.float32)
    magnitude = tl.max(tl.abs(value), 0)
    if BOUND is not None:
        magnitude = tl.minimum(magnitude, BOUND)
    scale = tl.maximum(magnitude / LARGEST, LEAST)
    release_next_kernel()
    tl.store(scales + row, scale)
    tl.store(out + row * SIZE + column, rounded(value / scale, tl.float8e4nv), mask=mask)


def quantize_rows(x: Tensor, bound: float | None = None) -> tuple[Tensor, Tensor]:
    """Return x in e4m3 and the scale of each row; see `reference.quantized.quantize_rows`.

    Args:
        x: [tokens, size], bf16.
        bound: Largest magnitude that a scale covers; larger values are clamped.

    Returns:
        [tokens, size], float8_e4m3fn, and [tokens], fp32.
    """
    contiguous(x=x)
    count, size = x.shape
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scales = torch.empty(count, dtype=torch.float32, device=x.device)
    width = power_above(size)
    launch(_quantize_rows_kernel, (count,), warps=16 if width > 8192 else 8 if width > 2048 else 4)(
        x, out, scales, BOUND=bound, LEAST=LEAST_SCALE, SIZE=size, WIDTH=width
    )
    return out, scales
