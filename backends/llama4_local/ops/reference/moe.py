"""Feed-forwards: plain SwiGLU, and the mixture of experts, which reads routed experts only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llama4_local.ops.reference import rows
from llama4_local.ops.reference.rows import swiglu
from llama4_local.weights.expert_stack import matrices_of, matrix_of

if TYPE_CHECKING:
    from llama4_local.weights.tree import MlpWeights, MoeWeights

# Returns x [rows, in] times the transpose of a matrix [out, in].
Linear = Callable[[Tensor, Tensor], Tensor]


def mlp(x: Tensor, weights: MlpWeights, linear: Linear = rows.linear) -> Tensor:
    """Return down(silu(gate(x)) · up(x))."""
    return linear(swiglu(linear(x, weights.gate_up)), weights.down)


def experts(x: Tensor, router_logits: Tensor, weights: MoeWeights, linear: Linear = rows.linear) -> Tensor:
    """Return each row's top-1 expert of x · sigmoid(score), plus the shared expert of x.

    Args:
        x: [rows, hidden].
        router_logits: [rows, E], `linear(x, weights.router)`; an argument, since a trainer's loss uses them too.
        weights: Only experts with a routed row are read.
        linear: The form of products.
    """
    logits, top_1 = router_logits.max(dim=-1)
    scaled = x * torch.sigmoid(logits.float()).to(x.dtype)[:, None]
    routed = _one_row(scaled, int(top_1), weights, linear) if len(x) == 1 else _grouped(scaled, top_1, weights, linear)
    return routed + mlp(x, weights.shared, linear)


def _one_row(x: Tensor, expert: int, weights: MoeWeights, linear: Linear) -> Tensor:
    return linear(swiglu(linear(x, matrix_of(weights.gate_up, expert))), matrix_of(weights.down, expert))


def _grouped(x: Tensor, top_1: Tensor, weights: MoeWeights, linear: Linear) -> Tensor:
    """Gather the rows of each expert, apply it, and scatter the results back."""
    order = torch.argsort(top_1, stable=True)
    gate_up, down = matrices_of(weights.gate_up), matrices_of(weights.down)
    counts = torch.bincount(top_1, minlength=len(gate_up)).tolist()
    parts = [
        linear(swiglu(linear(own, gate_up[expert])), down[expert])
        for expert, own in enumerate(x[order].split(counts))
        if counts[expert]
    ]
    done = torch.cat(parts)
    return torch.empty_like(done).index_copy(0, order, done)
