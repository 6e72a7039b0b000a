"""Weight matrices and activations as kernels take them: named tuples of tensors and compile-time parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from llama4_local.ops.kernels.launch import require
from llama4_local.weights.quantized import Int4Matrix, Matrix

if TYPE_CHECKING:
    from llama4_local.ops.kernels.tiles import Format, Tile, VectorTile


class Scaled(NamedTuple):
    """A kernel's argument for a matrix in any format.

    Args:
        data: The stored numbers; `values` would be an attribute of Triton's own tuples.
        scales: fp32 per row for e4m3, bf16 per group and output for int4; None for bf16.
    """

    data: Tensor
    scales: Tensor | None


class Product(NamedTuple):
    """Compile-time parameters of a matrix product's kernel.

    Args:
        format: Weight format.
        rows: Outputs of a block.
        tokens: Tokens of a block; 1 in matrix-vector products.
        depth: Inputs of a step.
        splits: Parts of the inputs (split-K).
        group: Inputs that share a scale, for int4; else 0.
        even: Whether `depth` divides the inputs, so that loads need no mask.
        paired: Whether the block is computed as two halves, see `paired_products`: int4 off Hopper's matrix units.
    """

    format: Format
    rows: int
    tokens: int
    depth: int
    splits: int
    group: int
    even: bool
    paired: bool = False


@dataclass(frozen=True, slots=True)
class Operands:
    """A weight matrix's tensors and format.

    Args:
        format: Weight format.
        values: [..., out, in], or [..., out, in / 2] bytes for int4.
        scales: As in `Int4Matrix` and `Fp8Matrix`; None for bf16.
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

    @property
    def scaled(self) -> Scaled:
        """The kernel's argument."""
        return Scaled(self.values, self.scales)

    def product(self, tile: Tile) -> Product:
        """Return the compile-time parameters of a product with this matrix.

        For int4 a step covers the tile's depth where that is a whole number of groups and divides the inputs, and
        one group elsewhere.
        """
        one_group = self.group and (tile.depth % self.group or self.inputs % tile.depth)
        depth = self.group if one_group else tile.depth
        paired = self.group >= 64 and not tile.matmul
        even = self.inputs % depth == 0
        return Product(self.format, tile.rows, tile.tokens, depth, tile.splits, self.group, even, paired)

    def vector_product(self, tile: VectorTile, splits: int) -> Product:
        """Return the compile-time parameters of a matrix-vector product; for int4 a step covers one group."""
        depth = self.group or tile.depth
        return Product(self.format, tile.rows, 1, depth, splits, self.group, self.inputs % depth == 0)


def operands(weight: Matrix) -> Operands:
    """Return a weight matrix's tensors and format.

    Raises:
        InvalidRequest: Plain weights in another type than bf16, or int4 groups that no kernel takes.
    """
    if isinstance(weight, Tensor):
        require(weight.dtype == torch.bfloat16, f"plain weights must be bf16, got {weight.dtype}")
        return Operands("bf16", weight)
    if isinstance(weight, Int4Matrix):
        require(weight.group in (32, 64, 128), f"int4 groups must be of 32, 64 or 128, got {weight.group}")
        require(weight.order is None, "int4 in activation order (weight_g_idx) is served with device='cpu'")
        return Operands("int4", weight.packed, weight.scales, weight.group)
    return Operands("fp8", weight.values, weight.scales, bound=weight.bound)


def per_expert(weight: Matrix) -> Operands:
    """Return a stack of experts' tensors and format, values in the order [experts, out, in].

    Plain experts come as published, [experts, in, out]; kernels read each output's weights contiguously, as
    `prepare` stores them.
    """
    parts = operands(weight)
    return replace(parts, values=parts.values.transpose(1, 2)) if parts.format == "bf16" else parts
