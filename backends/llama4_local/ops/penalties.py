"""Penalties of earlier tokens on the logits of a step's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Penalties(NamedTuple):
    """The penalties of some rows; see `reference.sampling.penalize`.

    Args:
        seen: [rows, vocab], bool.
        counts: [rows, vocab], int32.
        repetition: [rows], fp32.
        presence: [rows], fp32.
        frequency: [rows], fp32.
    """

    seen: Tensor
    counts: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor
