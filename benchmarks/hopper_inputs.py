"""Random tensors on the GPU in the shapes and formats that kernels take."""

from __future__ import annotations

import torch
from torch import Tensor

from llama4_local.kernels.tiles import Format
from llama4_local.quantized import Fp8Matrix, Int4Matrix, Matrix

DEVICE = "cuda"
FORMATS: tuple[Format, ...] = ("bf16", "fp8", "int4")


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16, std: float = 1.0) -> Tensor:
    """Normal numbers, never zeros: those hide unwritten outputs and run faster."""
    return torch.empty(shape, dtype=dtype, device=DEVICE).normal_(std=std)


def matrix(form: Format, *shape: int, group: int = 128) -> Matrix:
    """A matrix [..., out, in] whose products with unit rows are about one."""
    outputs, inputs = shape[-2:]
    std = inputs**-0.5
    if form == "bf16":
        return normal(*shape, std=std)
    if form == "fp8":
        values = torch.empty(shape, dtype=torch.float8_e4m3fn, device=DEVICE)
        flat = values.view(-1, inputs)
        for first in range(0, len(flat), 1 << 14):
            part = flat[first : first + (1 << 14)]
            part.copy_(torch.empty(part.shape, device=DEVICE).normal_(std=100).clamp_(-448, 448))
        return Fp8Matrix(values, torch.rand(shape[:-1], device=DEVICE).add_(0.5).mul_(std / 100))
    packed = torch.randint(0, 256, (*shape[:-1], inputs // 2), dtype=torch.uint8, device=DEVICE)
    scales = normal(*shape[:-2], inputs // group, outputs, dtype=torch.float32).mul_(0.1).add_(1).mul_(std / 4.6)
    return Int4Matrix(packed, scales.to(torch.bfloat16))


def experts(form: Format, *shape: int) -> Matrix:
    """A stack of experts as kernels take them; plain ones are [experts, in, out]."""
    found = matrix(form, *shape)
    return found.transpose(1, 2) if isinstance(found, Tensor) else found


def exact(weight: Matrix) -> Tensor:
    """[out, in] in fp64."""
    return weight.double() if isinstance(weight, Tensor) else weight.dequantize(torch.float64)


def exact_expert(weight: Matrix, expert: int) -> Tensor:
    """[out, in] of one expert, in fp64."""
    return weight[expert].t().double() if isinstance(weight, Tensor) else weight[expert].dequantize(torch.float64)


def weight_bytes(weight: Matrix) -> int:
    """Bytes that reading a whole matrix takes."""
    return weight.nbytes


def activations_for(x: Tensor, form: Format) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return what a matrix kernel gets for x in a format, its scales, and what that is worth in fp64."""
    if form != "fp8":
        return x, None, x.double()
    from llama4_local.kernels.activations import quantize_rows

    values, scales = quantize_rows(x)
    return values, scales, values.double() * scales.double()[:, None]
