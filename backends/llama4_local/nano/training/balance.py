"""The mixture of experts as it is trained: evenly loaded, and in forms that are quick to differentiate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from llama4_local.ops.reference import moe, rows
from llama4_local.ops.reference.functions import ReferenceOps

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.weights.tree import MoeWeights

_EVEN = 64


class BalancedOps(ReferenceOps):
    """The reference's functions, which also note how evenly each router spreads its tokens."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.unevenness = torch.zeros((), device=device)  # summed over the layers

    def moe(self, x: Tensor, weights: MoeWeights) -> Tensor:
        """See `Ops.moe`; adds the load-balancing term of the Switch Transformer (Fedus et al. 2021)."""
        scores = rows.linear(x, weights.router)
        count = scores.shape[-1]
        load = functional.one_hot(scores.argmax(-1), count).float().mean(0)
        self.unevenness = self.unevenness + count * (load * scores.float().softmax(-1).mean(0)).sum()
        return (even_experts if x.device.type == "cpu" else masked_experts)(x, scores, weights)


def even_experts(x: Tensor, scores: Tensor, weights: MoeWeights) -> Tensor:
    """Return what `reference.moe.experts` does, each expert's rows padded to a multiple of 64.

    CPU libraries prepare a product anew for every number of rows; with few different ones they need not.
    """
    best, chosen = scores.max(dim=-1)
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=scores.shape[-1]).tolist()
    sorted_rows = (x * torch.sigmoid(best.float()).to(x.dtype)[:, None])[order]
    parts = [
        rows.swiglu(functional.pad(own, (0, 0, 0, -len(own) % _EVEN)) @ gate_up) @ down
        for own, gate_up, down in zip(
            sorted_rows.split(counts), weights.gate_up.unbind(), weights.down.unbind(), strict=True
        )
    ]
    routed = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return torch.empty_like(x).index_copy(0, order, routed) + moe.mlp(x, weights.shared)


def masked_experts(x: Tensor, scores: Tensor, weights: MoeWeights) -> Tensor:
    """Return what `reference.moe.experts` does, by way of all experts.

    For experts as narrow as nano's, two large products and a mask take a GPU less time than sorting rows, and
    the device is not asked how many rows each expert has.
    """
    count, hidden, width = weights.gate_up.shape
    best, chosen = scores.max(dim=-1)
    scaled = x * torch.sigmoid(best.float()).to(x.dtype)[:, None]
    wide = rows.swiglu((scaled @ weights.gate_up.transpose(0, 1).reshape(hidden, -1)).unflatten(-1, (count, width)))
    kept = wide * functional.one_hot(chosen, count).to(x.dtype)[..., None]
    return kept.flatten(1) @ weights.down.flatten(0, 1) + moe.mlp(x, weights.shared)
