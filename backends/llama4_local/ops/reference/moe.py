"""The feed-forwards: plain SwiGLU, and the mixture of experts that touches only routed ones."""

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
        router_logits: [rows, E], as `linear(x, weights.router)` gives them; a trainer passes them in to
            look at them too.
        weights: Only experts that some row is routed to are read.
    """
    logits, chosen = router_logits.max(dim=-1)
    scaled = x * torch.sigmoid(logits.float()).to(x.dtype)[:, None]
    routed = _one_row(scaled, int(chosen), weights) if len(x) == 1 else _grouped(scaled, chosen, weights)
    return routed + mlp(x, weights.shared)


def _one_row(x: Tensor, expert: int, weights: MoeWeights) -> Tensor:
    return expert_linear(swiglu(expert_linear(x, weights.gate_up[expert])), weights.down[expert])


def expert_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [rows, in] times one expert's matrix [in, out], however it lies in memory."""
    return linear(x, weight.t())


def _grouped(x: Tensor, chosen: Tensor, weights: MoeWeights) -> Tensor:
    """Bring the rows of each expert together, run them, and put the results back in place."""
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=len(weights.router)).tolist()
    # unbind gives all experts one backward pass; indexing would fill a whole zero gradient for each.
    gate_up, down = weights.gate_up.unbind(), weights.down.unbind()
    parts = [
        expert_linear(swiglu(expert_linear(rows, gate_up[expert])), down[expert])
        for expert, rows in enumerate(x[order].split(counts))
        if counts[expert]
    ]
    done = torch.cat(parts)
    return torch.empty_like(done).index_copy(0, order, done)
