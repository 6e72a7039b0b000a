"""Experts in a layout that keeps each in a tensor of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExpertStack:
    """A layer's experts, whose matrices [out, in] lie in oneDNN's blocks, which no tensor of three axes can have.

    Args:
        matrices: One for each expert.
    """

    matrices: tuple[Tensor, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.matrices[0].dtype


def matrix_of(experts: Tensor | ExpertStack, index: int) -> Tensor:
    """Return one expert's matrix, [out, in]: experts are an `ExpertStack`, or [E, in, out]."""
    return experts.matrices[index] if isinstance(experts, ExpertStack) else experts[index].t()


def matrices_of(experts: Tensor | ExpertStack) -> tuple[Tensor, ...]:
    """Return all experts' matrices, [out, in] each."""
    if isinstance(experts, ExpertStack):
        return experts.matrices
    # unbind has one backward pass for all experts; indexing would allocate a gradient of the whole stack for each.
    return experts.transpose(1, 2).unbind()
