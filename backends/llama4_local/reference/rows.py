"""Functions that treat every row alone: norm, linear map, SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_FEW_ROWS = range(2, 17)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Return x over its root mean square along the last axis, times `weight` if there is one.

    As Llama 4 does it: normalised in fp32, cast back to x's type, and only then multiplied.
    """
    normed = functional.rms_norm(x.float(), x.shape[-1:], None, eps).to(x.dtype)
    return normed if weight is None else normed * weight


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [rows, in] times the transpose of `weight` [out, in]."""
    # For a few rows the CPU libraries read a matrix two to five times faster when it stands on the left.
    if not torch.is_grad_enabled() and x.device.type == "cpu" and x.shape[0] in _FEW_ROWS:
        return torch.mm(weight, x.t()).t().contiguous()
    return functional.linear(x, weight)


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) · up of [..., 2·I], gate in the first half."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up
