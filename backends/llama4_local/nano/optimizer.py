"""The optimizer: Muon for the matrices inside the network, AdamW for everything else.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest matrix with equal singular values,
found by a few Newton-Schulz steps; the update's size is matched to AdamW's as in "Muon is scalable for LLM
training" (Liu et al. 2025), so that both share one learning rate. AdamW: Loshchilov and Hutter 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

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
        moments: By name: `NAME` for Muon's momentum, `NAME.first` and `NAME.second` for AdamW's.
        weight_decay: Decoupled decay of every parameter of two or more dimensions.
        pace: Factors on the learning rate, by the start of a parameter's name.
    """

    matrices: Mapping[str, Tensor]
    others: Mapping[str, Tensor]
    moments: dict[str, Tensor]
    weight_decay: float
    pace: Mapping[str, float] = field(default_factory=dict[str, float])

    @classmethod
    def create(
        cls,
        matrices: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
        weight_decay: float,
        pace: Mapping[str, float] | None = None,
    ) -> Optimizer:
        """Return an optimizer with moments of zero."""
        moments = {name: torch.zeros_like(tensor) for name, tensor in matrices.items()}
        for name, tensor in others.items():
            moments |= {f"{name}.first": torch.zeros_like(tensor), f"{name}.second": torch.zeros_like(tensor)}
        return cls(matrices, others, moments, weight_decay, pace or {})

    @torch.no_grad()
    def step(self, rate: float, count: int) -> None:
        """Change all parameters by their gradients.

        Args:
            rate: Learning rate.
            count: Number of this step, from 1.
        """
        for name, parameter in self.others.items():
            if parameter.grad is not None:
                self._adamw(name, parameter, parameter.grad, rate * self._pace(name), count)
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name, parameter in self.matrices.items():
            shapes.setdefault(tuple(parameter.shape), []).append(name)
        for same in shapes.values():
            self._muon([name for name in same if self.matrices[name].grad is not None], rate)

    def _pace(self, name: str) -> float:
        return next((factor for start, factor in self.pace.items() if name.startswith(start)), 1.0)

    def _adamw(self, name: str, parameter: Tensor, gradient: Tensor, rate: float, count: int) -> None:
        first, second = self.moments[f"{name}.first"], self.moments[f"{name}.second"]
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        size = (second / (1 - _BETAS[1] ** count)).sqrt_().add_(_EPS)
        if parameter.ndim > 1:
            parameter.mul_(1 - rate * self.weight_decay)
        parameter.addcdiv_(first, size, value=-rate / (1 - _BETAS[0] ** count))

    def _muon(self, names: list[str], rate: float) -> None:
        if not names:
            return
        updates: list[Tensor] = []
        for name in names:
            gradient = self.matrices[name].grad
            if gradient is not None:
                momentum = self.moments[name].lerp_(gradient, 1 - _MOMENTUM)
                updates.append(gradient.lerp(momentum, _MOMENTUM))
        joined = torch.stack(updates)
        flat = joined.flatten(0, -3)
        turned = orthogonalised(flat).view_as(joined)
        size = _MATCHED_SIZE * max(joined.shape[-2:]) ** 0.5
        for name, update in zip(names, turned, strict=True):
            parameter, own = self.matrices[name], rate * self._pace(name)
            parameter.mul_(1 - own * self.weight_decay).add_(update, alpha=-own * size)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices [n, rows, cols] with their singular values brought close to one, fp32."""
    x = matrices.bfloat16()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.transpose(1, 2)
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return (x if wide else x.transpose(1, 2)).float()
