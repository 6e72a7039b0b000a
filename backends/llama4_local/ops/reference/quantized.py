"""Products with packed weights: the twins of the kernels' int4 and FP8 paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llama4_local.ops.reference import rows
from llama4_local.ops.reference.functions import ReferenceOps
from llama4_local.weights.quantized import E4M3_LARGEST, LEAST_SCALE, Fp8Matrix

if TYPE_CHECKING:
    from llama4_local.ops.reference.moe import Linear
    from llama4_local.weights.quantized import Matrix
    from llama4_local.weights.tree import MlpTree, MoeTree

UNPACKED_AT_ONCE = 1 << 19  # numbers that fit into the processor's cache


class QuantizedReferenceOps(ReferenceOps):
    """The reference functions for networks whose matrices may be packed: the CPU path of a quantized model.

    Args:
        exact_rows: For so many rows or fewer, FP8 weights are multiplied with unrounded activations, as in the
            matrix-vector kernel; for more rows with activations in FP8.
    """

    def __init__(self, exact_rows: int = 0) -> None:
        super().__init__()
        self._exact_rows = exact_rows

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return x [rows, in] times the transpose of an unpacked matrix [out, in]."""
        return rows.linear(x, weight)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) · up of [rows, 2·I]."""
        return rows.swiglu(gate_up)

    def sigmoid(self, logits: Tensor) -> Tensor:
        """Return the sigmoid of one number of each row, [rows], fp32."""
        return torch.sigmoid(logits)

    def linear(self, x: Tensor, weight: Matrix) -> Tensor:
        """See `Ops.linear`; the weight may be packed."""
        return linear(x, weight, exact=self.is_exact(x), product=self.product)

    def expert_linear(self, x: Tensor, experts: Matrix, expert: int, *, exact: bool) -> Tensor:
        """Return `linear` with one of a stack of experts, see `expert_linear`."""
        return expert_linear(x, experts, expert, exact=exact, product=self.product)

    def is_exact(self, x: Tensor) -> bool:
        """Return whether activations of so many rows stay unrounded with FP8 weights."""
        return len(x) <= self._exact_rows

    def mlp(self, x: Tensor, weights: MlpTree[Matrix]) -> Tensor:
        """See `Ops.mlp`; the weights may be packed."""
        return self.linear(self.swiglu(self.linear(x, weights.gate_up)), weights.down)

    def moe(self, x: Tensor, weights: MoeTree[Matrix]) -> Tensor:
        """See `Ops.moe`; experts may be packed, routers are not."""
        return self.experts(x, self.router_logits(x, weights.router), weights)

    def router_logits(self, x: Tensor, router: Matrix) -> Tensor:
        """See `Ops.router_logits`; routers are not packed."""
        return linear(x, router, product=self.product)

    def experts(self, x: Tensor, router_logits: Tensor, weights: MoeTree[Matrix]) -> Tensor:
        """See `Ops.experts`; experts may be packed."""
        exact = self.is_exact(x)
        logits, top_1 = router_logits.float().max(dim=-1)
        scaled = x * self.sigmoid(logits).to(x.dtype)[:, None]
        routed = torch.empty_like(x)
        for expert in top_1.unique().tolist():
            own = top_1 == expert
            hidden = self.swiglu(self.expert_linear(scaled[own], weights.gate_up, expert, exact=exact))
            done = self.expert_linear(hidden, weights.down, expert, exact=exact)
            routed[own] = done.to(x.dtype)
        return routed + self.mlp(x, weights.shared)


def linear(x: Tensor, weight: Matrix, *, exact: bool = False, product: Linear = rows.linear) -> Tensor:
    """Return x [rows, in] times the transpose of a matrix [out, in], in x's type.

    Packed weights are unpacked to fp32, some outputs at a time, and multiplied in it by `product`. FP8 weights are
    multiplied with activations in FP8, each row with its own scale, unless `exact`.
    """
    if isinstance(weight, Tensor):
        return product(x, weight)
    values = x.float()
    if isinstance(weight, Fp8Matrix) and not exact:
        rounded, scales = quantize_rows(x, weight.bound)
        values = rounded.float() * scales[:, None]
    outputs, inputs = weight.shape
    step = max(1, UNPACKED_AT_ONCE // inputs)
    parts = (weight.rows(start, start + step) for start in range(0, outputs, step))
    return torch.cat([product(values, part.dequantize()).to(x.dtype) for part in parts], dim=1)


def expert_linear(
    x: Tensor, experts: Matrix, expert: int, *, exact: bool = False, product: Linear = rows.linear
) -> Tensor:
    """Return `linear` with one of a stack of experts; plain ones are [experts, in, out]."""
    if isinstance(experts, Tensor):
        return product(x, experts[expert].t())
    return linear(x, experts[expert], exact=exact, product=product)


def quantize_rows(x: Tensor, bound: float | None = None) -> tuple[Tensor, Tensor]:
    """Return x in e4m3, and the scale of each row: its largest magnitude over 448.

    Args:
        x: [rows, size].
        bound: Largest magnitude that a scale covers; larger values are clamped.

    Returns:
        [rows, size], float8_e4m3fn, and [rows], fp32.
    """
    magnitude = x.float().abs().amax(dim=-1)
    if bound is not None:
        magnitude = magnitude.clamp(max=bound)
    scales = (magnitude / E4M3_LARGEST).clamp(min=LEAST_SCALE)
    values = (x.float() / scales[:, None]).clamp(-E4M3_LARGEST, E4M3_LARGEST)
    return values.to(torch.float8_e4m3fn), scales
