"""Row-wise functions: norm, linear map, SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_FULL = 64


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Return x over its root mean square along the last axis, times `weight` if there is one.

    As in Llama 4: normalised in fp32, cast back to x's type, and only then multiplied. Without gradients in a third of
    the calls that `torch.rms_norm` makes on a CPU, which for few rows are all of its time.
    """
    wide = x.float()
    if torch.is_grad_enabled():
        normed = torch.rms_norm(wide, x.shape[-1:], None, eps)
    else:
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        normed = wide * torch.addcmul(length.new_full((), eps), length, length, value=1 / x.shape[-1]).rsqrt_()
    normed = normed.to(x.dtype)
    return normed if weight is None else normed * weight


def sum_in_order(parts: Tensor) -> Tensor:
    """Return the sum of parts [parts, …], taken in fp32 one after the other, in their dtype."""
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part.float()
    return total.to(parts.dtype)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [rows, in] times the transpose of `weight` [out, in], which may be a transposed view."""
    if _is_compiled_by_size(x):
        return functional.linear(functional.pad(x, (0, 0, 0, rounded_up(len(x)) - len(x))), weight)[: len(x)]
    return functional.linear(x, weight)


def rounded_up(rows: int) -> int:
    """Return the number of rows that oneDNN makes a product with: a power of two, then multiples of 64."""
    return 1 << (rows - 1).bit_length() if rows <= _FULL else -(-rows // _FULL) * _FULL


def _is_compiled_by_size(x: Tensor) -> bool:
    # oneDNN caches a compiled product for each number of rows, up to 1,024, in memory that is not planned.
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.is_grad_enabled()


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) · up of [..., 2·I], gate in the first half."""
    gate, up = gate_up.chunk(2, dim=-1)
    activated = functional.silu(gate)
    return activated * up if torch.is_grad_enabled() else activated.mul_(up)
