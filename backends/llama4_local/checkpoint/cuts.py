"""The part of each stored tensor that one rank takes; needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from llama4_local.checkpoint.names import is_vision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.config.share import Share

_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # their outputs are split
_COLUMNS = ("o_proj", "down_proj")  # their inputs are
_FUSED = (".experts.gate_up_proj", ".experts.down_proj")  # all routed experts of a layer
_SINGLE = re.compile(r"\.experts\.([0-9]+)\.")  # one expert that lies alone


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


def own_tensors(stored: Mapping[str, StoredTensor], experts: int, share: Share) -> dict[str, StoredTensor]:
    """Return the tensors that a rank takes any part of; experts that lie alone have the rank's own numbers, from 0.

    Args:
        stored: Those of a checkpoint, by published name.
        experts: Routed experts of a layer; only read where experts are whole.
        share: The rank; the first alone has the image encoder.
    """
    first, last = share.experts(experts)
    own: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        single = _SINGLE.search(name) if share.whole_experts else None
        if single is None:
            if share.rank == 0 or not is_vision(name):
                own[name] = tensor
        elif first <= int(single[1]) < last:
            own[f"{name[: single.start(1)]}{int(single[1]) - first}{name[single.end(1) :]}"] = tensor
    return own


def cut_of(name: str, tensors: Mapping[str, StoredTensor], share: Share) -> Cut | None:
    """Return the part that a rank takes of one of its tensors, by its published name; None for all of it."""
    if is_vision(name):
        return None
    stored, matrix = tensors[name], tensors.get(name.removesuffix("_scale"))
    scales = name.endswith("_scale")
    if name.removesuffix("_scale").endswith(_FUSED):
        return _experts_cut(stored, matrix or stored, share)
    if share.whole_experts and (".experts." in name or ".shared_expert." in name):
        return None
    kind = name.removesuffix("_scale").removesuffix(".weight").rpartition(".")[2]
    if kind in _ROWS or kind == "lm_head":
        one_for_all = scales and prod(stored.shape) == 1
        rows = share.vocabulary if kind == "lm_head" else share.range
        return None if one_for_all else Cut(0, (rows(stored.shape[0]),))
    if kind in _COLUMNS and not scales:
        return Cut(1, (share.range(stored.shape[1]),))
    return None


def _experts_cut(stored: StoredTensor, matrix: StoredTensor, share: Share) -> Cut | None:
    """Cut the experts of a layer, [experts, in, out], or their scales: one for all, for each, or for each output.

    Scales may have axes of one anywhere, or one axis for experts and outputs.
    """
    count, outputs = matrix.shape[0], matrix.shape[2]
    if prod(stored.shape) == 1:
        return None
    long = [axis for axis, size in enumerate(stored.shape) if size > 1]
    if share.whole_experts:
        return Cut(long[0], (share.range(stored.shape[long[0]]),))
    if ".down_proj" in matrix.name:
        return Cut(1, (share.range(stored.shape[1]),)) if stored is matrix else None
    if prod(stored.shape) == count:
        return None
    start, stop = share.range(outputs // 2)
    halves = ((start, stop), (outputs // 2 + start, outputs // 2 + stop))
    joined = stored.shape[long[-1]] // outputs  # experts on one axis with their outputs
    return Cut(long[-1], tuple((at * outputs + a, at * outputs + b) for at in range(joined) for a, b in halves))


def cut_shape(stored: StoredTensor, cut: Cut | None) -> StoredTensor:
    """Return a tensor's description with the shape that a cut leaves."""
    if cut is None:
        return stored
    shape = (*stored.shape[: cut.axis], cut.length, *stored.shape[cut.axis + 1 :])
    return replace(stored, shape=shape)
