"""Random matrices in every weight format, and the limits of a kernel's deviation from its twin in fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from llama4_local.ops.kernels.activations import quantize_rows
from llama4_local.ops.kernels.tiles import Format, Tile
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix, Matrix

FORMATS: tuple[Format, ...] = ("bf16", "int4", "fp8")
ROUNDED = 2.5e-3  # one rounding to bf16 costs 1.7e-3 of the norm
WHOLE = 1e-5  # fp32 sums


def tile(rows: int = 64, tokens: int = 16, depth: int = 64, splits: int = 1) -> Tile:
    return Tile(rows, tokens, depth, splits, 4, 1)


def activations(*shape: int) -> Tensor:
    return torch.randn(shape).to(torch.bfloat16)


def matrix(weight_format: Format, *shape: int, group: int = 64) -> Matrix:
    """A matrix [..., out, in]."""
    outputs, inputs = shape[-2:]
    if weight_format == "bf16":
        return (torch.randn(shape) * inputs**-0.5).to(torch.bfloat16)
    if weight_format == "fp8":
        values = torch.randn(shape).clamp(-4, 4).mul(100).to(torch.float8_e4m3fn)
        return Fp8Matrix(values, (torch.rand(shape[:-1]) + 0.5) / 100 * inputs**-0.5)
    scales = torch.randn(*shape[:-2], inputs // group, outputs).sign() * (torch.rand(inputs // group, outputs) + 0.5)
    packed = torch.randint(0, 256, (*shape[:-1], inputs // 2), dtype=torch.uint8)
    return Int4Matrix(packed, (scales * inputs**-0.5 / 4).to(torch.bfloat16))


def experts(weight_format: Format, *shape: int, group: int = 64) -> Matrix:
    """A stack of experts in the kernels' layout; plain ones are [experts, in, out]."""
    stack = matrix(weight_format, *shape, group=group)
    return stack.transpose(1, 2) if isinstance(stack, Tensor) else stack


def exact(weight: Matrix) -> Tensor:
    return weight.double() if isinstance(weight, Tensor) else weight.dequantize(torch.float64)


def exact_expert(weight: Matrix, expert: int) -> Tensor:
    """[out, in] of one expert."""
    return weight[expert].t().double() if isinstance(weight, Tensor) else weight[expert].dequantize(torch.float64)


def operand(x: Tensor, weight_format: Format) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return a matrix kernel's operand for x in a format, its scales, and its exact value in fp64."""
    if weight_format != "fp8":
        return x, None, x.double()
    values, scales = quantize_rows(x)
    return values, scales, values.double() * scales.double()[:, None]


def error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of the expected values."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up
