"""Feed-forwards: plain SwiGLU, and the mixture of experts, which reads routed experts only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.ops.reference.rows import linear, swiglu

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.weights.tree import MlpWeights, MoeWeights


def mlp(x: Tensor, weights: MlpWeights) -> Tensor:
    """Return down(silu(gate(x)) · up(x))."""
    return linear(swiglu(linear(x, weights.gate_up)), weights.down)


def experts(x: Tensor, router_logits: Tensor, weights: MoeWeights) -> Tensor:
    """Return each row's top-1 expert of x · sigmoid(score), plus the shared expert of x.

    Args:
        x: [rows, hidden].
        router_logits: [rows, E], `linear(x, weights.router)`; an argument, since a trainer's loss uses them too.
        weights: Only experts with a routed row are read.
    """
    logits, top_1 = router_logits.max(dim=-1)
    scaled = x * torch.sigmoid(logits.float()).to(x.dtype)[:, None]
    routed = _one_row(scaled, int(top_1), weights) if len(x) == 1 else _grouped(scaled, top_1, weights)
    return routed + mlp(x, weights.shared)


def _one_row(x: Tensor, expert: int, weights: MoeWeights) -> Tensor:
    return expert_linear(swiglu(expert_linear(x, weights.gate_up[expert])), weights.down[expert])


def expert_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [rows, in] times one expert's matrix [in, out], in any memory layout."""
    return linear(x, weight.t())


def _grouped(x: Tensor, top_1: Tensor, weights: MoeWeights) -> Tensor:
    """Gather the rows of each expert, apply it, and scatter the results back."""
    order = torch.argsort(top_1, stable=True)
    counts = torch.bincount(top_1, minlength=len(weights.router)).tolist()
    # unbind has one backward pass for all experts; indexing would allocate a gradient of the whole stack for each.
    gate_up, down = weights.gate_up.unbind(), weights.down.unbind()
    parts = [
        expert_linear(swiglu(expert_linear(rows, gate_up[expert])), down[expert])
        for expert, rows in enumerate(x[order].split(counts))
        if counts[expert]
    ]
    done = torch.cat(parts)
    return torch.empty_like(done).index_copy(0, order, done)
