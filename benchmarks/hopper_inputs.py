"""Random tensors on the GPU in the kernels' shapes and formats.

In Triton's interpreter (`TRITON_INTERPRET=1`) everything is on the CPU and small: a rehearsal of the scripts, whose
times are meaningless.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llama4_local.ops.kernels.arithmetic import INTERPRETED
from llama4_local.ops.kernels.arrivals import arrival_counters
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.tile_table import TileTable
from llama4_local.ops.kernels.tiles import Format, Trial
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix, Matrix

REHEARSAL = bool(INTERPRETED)
DEVICE = "cpu" if REHEARSAL else "cuda"
FORMATS: tuple[Format, ...] = ("bf16", "fp8", "int4")


@dataclass(frozen=True, slots=True)
class Sizes:
    """The measured model's sizes; Scout's decoder by default."""

    hidden: int = 5120
    size: int = 8192
    experts: int = 16
    heads: int = 40
    kv_heads: int = 8
    dim: int = 128
    vocab: int = 202_048
    layers: int = 48
    page: int = 64
    chunk: int = 8192
    context: int = 4096

    @property
    def qkv(self) -> int:
        """Outputs of the joined projections."""
        return (self.heads + 2 * self.kv_heads) * self.dim


_TINY = Sizes(
    hidden=256,
    size=128,
    experts=4,
    heads=4,
    kv_heads=2,
    dim=64,
    vocab=1100,
    layers=2,
    page=16,
    chunk=128,
    context=96,
)
SIZES = _TINY if REHEARSAL else Sizes()


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16, std: float = 1.0, device: str = DEVICE) -> Tensor:
    """Normal numbers, never zeros: those hide unwritten outputs and run faster."""
    return torch.empty(shape, dtype=dtype, device=device).normal_(std=std)


def matrix(weight_format: Format, *shape: int, group: int = 128, device: str = DEVICE) -> Matrix:
    """A matrix [..., out, in] of mean 0 whose products with unit rows are about one.

    Uniform nibbles have a mean of -0.5 scales. With positive scales every product would gain the same direction, and
    a network's tokens would become alike, which routes them to few experts: int4's scales have random signs.
    """
    outputs, inputs = shape[-2:]
    std = inputs**-0.5
    if weight_format == "bf16":
        return normal(*shape, std=std, device=device)
    if weight_format == "fp8":
        values = torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
        flat = values.view(-1, inputs)
        for first in range(0, len(flat), 1 << 14):
            part = flat[first : first + (1 << 14)]
            part.copy_(torch.empty(part.shape, device=device).normal_(std=100).clamp_(-448, 448))
        return Fp8Matrix(values, torch.rand(shape[:-1], device=device).add_(0.5).mul_(std / 100))
    packed = torch.randint(0, 256, (*shape[:-1], inputs // 2), dtype=torch.uint8, device=device)
    scales = normal(*shape[:-2], inputs // group, outputs, dtype=torch.float32, device=device)
    signs = torch.randint(0, 2, scales.shape, device=device).mul_(2).sub_(1)
    scales = scales.mul_(0.1).add_(1).mul_(std / 4.6).mul_(signs)
    return Int4Matrix(packed, scales.to(torch.bfloat16))


def experts(weight_format: Format, *shape: int, device: str = DEVICE) -> Matrix:
    """A stack of experts in the kernels' layout; plain ones are [experts, in, out]."""
    stack = matrix(weight_format, *shape, device=device)
    return stack.transpose(1, 2) if isinstance(stack, Tensor) else stack


def exact(weight: Matrix) -> Tensor:
    """[out, in] in fp64."""
    return weight.double() if isinstance(weight, Tensor) else weight.dequantize(torch.float64)


def exact_expert(weight: Matrix, expert: int) -> Tensor:
    """[out, in] of one expert, in fp64."""
    return weight[expert].t().double() if isinstance(weight, Tensor) else weight[expert].dequantize(torch.float64)


def activations_for(x: Tensor, weight_format: Format) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return a matrix kernel's operand for x in a format, its scales, and its exact value in fp64."""
    if weight_format != "fp8":
        return x, None, x.double()
    from llama4_local.ops.kernels.activations import quantize_rows

    values, scales = quantize_rows(x)
    return values, scales, values.float().double() * scales.double()[:, None]


def kernels(*, deterministic: bool = False, trials: frozenset[Trial] = frozenset()) -> KernelOps:
    """Return the kernels as serving has them on this device, or with what no GPU has timed yet."""
    return KernelOps(TileTable(deterministic, trials), arrival_counters(DEVICE))
