"""Truncation of each row's distribution before its next token is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Filters:
    """Temperature and truncation of each row of a batch.

    Args:
        temperature: [n], fp32, above 0.
        top_k: [n], int64; 0 for all tokens.
        top_p: [n], fp64, in (0, 1].
        min_p: [n], fp32, in [0, 1].
        ranked: Whether any row has a top_k or a top_p, so that tokens must be ranked at all.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    ranked: bool

    def rows(self, rows: Tensor) -> Filters:
        """Return those of some rows, [count], int64."""
        own = (self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows])
        return Filters(*own, self.ranked)
