"""The optimizer: Muon for the matrices inside the network, AdamW for everything else.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest matrix with equal singular values,
found by a few Newton-Schulz steps; the update's size is matched to AdamW's as in "Muon is scalable for LLM
training" (Liu et al. 2025), so that both share one learning rate. AdamW: Loshchilov and Hutter 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import AdamW

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOMENTUM = 0.95
_BETAS = (0.9, 0.97)
_EPS = 1e-9
_MATCHED_SIZE = 0.2  # AdamW's updates are about 0.2 to 0.4 per element
_ITERATIONS = 5
# Quintic that pulls singular values towards one fastest (Jordan et al.).
_QUINTIC = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Parameters with their moments; `step` changes both in place.

    Args:
        matrices: Parameters, by name, that Muon updates: [out, in], or [E, in, out] for experts.
        others: Parameters that AdamW updates.
        adamw: What does so.
        momenta: Muon's momentum, by name.
        weight_decay: Decoupled decay of every parameter of two or more dimensions.
        pace: Factors on the learning rate, by the start of a parameter's name.
    """

    matrices: Mapping[str, Tensor]
    others: Mapping[str, Tensor]
    adamw: AdamW
    momenta: Mapping[str, Tensor]
    weight_decay: float
    pace: Mapping[str, float]

    @classmethod
    def create(
        cls,
        matrices: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
        weight_decay: float,
        pace: Mapping[str, float] | None = None,
    ) -> Optimizer:
        """Return an optimizer with moments of zero."""
        momenta = {name: torch.zeros_like(tensor) for name, tensor in matrices.items()}
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, tensor in others.items():
            kind = (_factor(pace or {}, name), weight_decay if tensor.ndim > 1 else 0.0)
            groups.setdefault(kind, []).append(tensor)
        adamw = AdamW(
            [{"params": tensors, "pace": factor, "weight_decay": decay} for (factor, decay), tensors in groups.items()],
            betas=_BETAS,
            eps=_EPS,
            fused=True,
        )
        for tensor in others.values():
            first, second = torch.zeros_like(tensor), torch.zeros_like(tensor)
            adamw.state[tensor] = {
                "step": torch.zeros((), device=tensor.device),
                "exp_avg": first,
                "exp_avg_sq": second,
            }
        return cls(matrices, others, adamw, momenta, weight_decay, pace or {})

    @property
    def moments(self) -> dict[str, Tensor]:
        """All moments: `NAME` for Muon's momentum, `NAME.first` and `NAME.second` for AdamW's."""
        moments = dict(self.momenta)
        for name, tensor in self.others.items():
            state = self.adamw.state[tensor]
            moments |= {f"{name}.first": state["exp_avg"], f"{name}.second": state["exp_avg_sq"]}
        return moments

    def done(self, count: int) -> None:
        """Take it that so many steps were done before; the moments are theirs."""
        for tensor in self.others.values():
            self.adamw.state[tensor]["step"].fill_(count)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Change all parameters by their gradients, at a learning rate."""
        for group in self.adamw.param_groups:
            group["lr"] = rate * group["pace"]
        self.adamw.step()
        shapes: dict[tuple[float, *tuple[int, ...]], list[str]] = {}
        for name, parameter in self.matrices.items():
            if parameter.grad is not None:
                shapes.setdefault((_factor(self.pace, name), *parameter.shape), []).append(name)
        for (factor, *_), same in shapes.items():
            self._muon(same, rate * factor)

    def _muon(self, names: list[str], rate: float) -> None:
        gradients = torch.stack([gradient for name in names if (gradient := self.matrices[name].grad) is not None])
        momentum = torch.stack([self.momenta[name] for name in names]).lerp_(gradients, 1 - _MOMENTUM)
        update = orthogonalised(gradients.lerp(momentum, _MOMENTUM).flatten(0, -3)).view_as(gradients)
        size = _MATCHED_SIZE * max(gradients.shape[-2:]) ** 0.5
        weights = torch.stack([self.matrices[name] for name in names])
        weights.mul_(1 - rate * self.weight_decay).add_(update, alpha=-rate * size)
        for name, weight, kept in zip(names, weights, momentum, strict=True):
            self.matrices[name].copy_(weight)
            self.momenta[name].copy_(kept)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices [n, rows, cols] with their singular values brought close to one, fp32."""
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.transpose(1, 2)
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.transpose(1, 2)).float()


def _factor(pace: Mapping[str, float], name: str) -> float:
    return next((factor for start, factor in pace.items() if name.startswith(start)), 1.0)
