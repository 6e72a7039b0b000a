"""Counts the experts that a step's tokens are routed to, for the floor of its memory traffic."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional

from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.weights.quantized import Matrix
from llama4_local.weights.tree import MoeTree


@dataclass(frozen=True, slots=True)
class CountingOps(KernelOps):
    """Kernel ops that count the routed experts of each MoE layer.

    Args:
        touched: Experts with at least one token, appended by each call of `moe`.
    """

    touched: list[int] = field(default_factory=list)

    def moe(self, x: Tensor, weights: MoeTree[Matrix]) -> Tensor:
        """See `KernelOps.moe`."""
        if not isinstance(weights.router, Tensor):
            raise TypeError("a router is a plain matrix in every format")
        logits = functional.linear(x.float(), weights.router.float())
        self.touched.append(len(logits.argmax(dim=-1).unique()))
        return KernelOps.moe(self, x, weights)  # `super()` does not work in a dataclass with slots
