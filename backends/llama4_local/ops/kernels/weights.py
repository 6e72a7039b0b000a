"""What a matrix kernel gets of a weight matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llama4_local.ops.kernels.launch import require
from llama4_local.weights.quantized import Int4Matrix, Matrix

if TYPE_CHECKING:
    from llama4_local.ops.kernels.tiles import Format, Tile


@dataclass(frozen=True, slots=True)
class Operands:
    """A weight matrix, taken apart.

    Args:
        format: How the values are stored.
        values: [..., out, in], or [..., out, in / 2] bytes for int4.
        scales: As `Int4Matrix` and `Fp8Matrix` have them; None for bf16.
        group: Inputs that share a scale, for int4; else 0.
        bound: See `Fp8Matrix`.
    """

    format: Format
    values: Tensor
    scales: Tensor | None = None
    group: int = 0
    bound: float | None = None

    @property
    def outputs(self) -> int:
        """Rows of the matrix."""
        return self.values.shape[-2]

    @property
    def inputs(self) -> int:
        """Columns of the matrix."""
        return self.values.shape[-1] * (2 if self.format == "int4" else 1)

    def depth(self, tile: Tile) -> int:
        """Inputs of a step: the cut's, where int4 has whole groups of them and nothing is left over."""
        whole = self.group and (tile.depth % self.group or self.inputs % tile.depth)
        return self.group if whole else tile.depth


def operands(weight: Matrix) -> Operands:
    """Take a weight matrix apart for a kernel."""
    if isinstance(weight, Tensor):
        require(weight.dtype == torch.bfloat16, f"plain weights must be bf16, got {weight.dtype}")
        return Operands("bf16", weight)
    if isinstance(weight, Int4Matrix):
        require(weight.group in (32, 64, 128), f"int4 groups must be of 32, 64 or 128, got {weight.group}")
        return Operands("int4", weight.packed, weight.scales, weight.group)
    return Operands("fp8", weight.values, weight.scales, bound=weight.bound)


def per_expert(weight: Matrix) -> Operands:
    """Take a stack of experts apart, values in the order [experts, out, in].

    Plain experts come as published, [experts, in, out]; kernels want each output's weights side by side in
    memory, as `prepare` stores them.
    """
    parts = operands(weight)
    return replace(parts, values=parts.values.transpose(1, 2)) if parts.format == "bf16" else parts
