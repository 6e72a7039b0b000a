"""The part of each stored tensor that one rank takes; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.config.share import Share

_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # their outputs are split
_COLUMNS = ("o_proj", "down_proj")  # their inputs are


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a tensor that a rank takes.

    Args:
        axis: The axis that is cut.
        ranges: Start and stop of each piece, which are joined.
    """

    axis: int
    ranges: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        """Entries that are left on the axis."""
        return sum(stop - start for start, stop in self.ranges)


def cut_of(name: str, stored: StoredTensor, share: Share) -> Cut | None:
    """Return the part that a rank takes of a tensor, by its published name; None for all of it."""
    if name.startswith(("vision_model.", "multi_modal_projector.")):
        return None
    scales = name.endswith("_scale")
    kind = name.removesuffix("_scale").removesuffix(".weight").rpartition(".")[2]
    if kind == "gate_up_proj":
        # Scales may have an axis of one behind them or before.
        axis = max(range(len(stored.shape)), key=lambda at: (stored.shape[at] if at else 0, at)) if scales else 2
        half = stored.shape[axis] // 2
        start, stop = share.range(half)
        return Cut(axis, ((start, stop), (half + start, half + stop)))
    if kind in _ROWS or kind == "lm_head":
        one_for_all = scales and prod(stored.shape) == 1
        rows = share.vocabulary if kind == "lm_head" else share.range
        return None if one_for_all else Cut(0, (rows(stored.shape[0]),))
    if kind in _COLUMNS and not scales:
        return Cut(1, (share.range(stored.shape[1]),))
    return None


def cut_shape(stored: StoredTensor, cut: Cut | None) -> StoredTensor:
    """Return a tensor's description with the shape that a cut leaves."""
    if cut is None:
        return stored
    shape = (*stored.shape[: cut.axis], cut.length, *stored.shape[cut.axis + 1 :])
    return replace(stored, shape=shape)
