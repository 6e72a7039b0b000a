"""The part of each stored tensor that one rank takes; needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from llama4_local.checkpoint.names import is_vision
from llama4_local.config.formats import INT4_GROUPS
from llama4_local.config.share import Share, divides, possible_sizes
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.config.model import ModelConfig

_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # their outputs are split
_COLUMNS = ("o_proj", "down_proj")  # their inputs are
_FUSED = (".experts.gate_up_proj", ".experts.down_proj")  # all routed experts of a layer
_PART = re.compile(r"_(packed|scale|shape|g_idx)$")  # of a packed matrix, or the scales of one in FP8
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
    base, part = matrix_of(name)
    stored, int4 = tensors[name], f"{base}_packed" in tensors
    if base.endswith(_FUSED):
        return _experts_cut(stored, tensors.get(base, stored), share)
    if part == "shape" or (share.whole_experts and (".experts." in name or ".shared_expert." in name)):
        return None
    kind = base.removesuffix(".weight").rpartition(".")[2]
    if kind in _ROWS or kind == "lm_head":
        one_for_all = part == "g_idx" or (part == "scale" and prod(stored.shape) == 1)
        rows = share.vocabulary if kind == "lm_head" else share.range
        return None if one_for_all else Cut(0, (rows(stored.shape[0]),))
    if kind not in _COLUMNS or (part == "scale" and (not int4 or stored.shape[1] == 1)):
        return None
    axis = len(stored.shape) - 1  # inputs, words of them, or groups
    return Cut(axis, (share.range(stored.shape[axis]),))


def matrix_of(name: str) -> tuple[str, str]:
    """Return the name of the matrix that a tensor belongs to, and which part of it: empty for the matrix itself."""
    ending = _PART.search(name)
    return (name[: ending.start()], ending[1]) if ending else (name, "")


def check_int4_groups(tensors: Mapping[str, StoredTensor], config: ModelConfig, share: Share) -> None:
    """Refuse ranks whose slices would cut groups of matrices that are stored in int4.

    Raises:
        InvalidRequest: It proposes the numbers that can.
    """
    named = _cutting(tensors, share)
    if named is None:
        return
    whole = share.whole_experts
    sizes = possible_sizes(config, whole_experts=whole)[whole:]
    possible = [str(size) for size in sizes if _cutting(tensors, Share(0, size, whole)) is None]
    other = replace(share, whole_experts=not whole)
    otherwise = divides(config, other) and _cutting(tensors, other) is None
    raise InvalidRequest(
        f"tensor_parallel={share.size} would cut groups of inputs of {named}, which is stored in int4; possible: "
        f"{', '.join(possible) or 'none'}.{f' With expert_parallel={not whole} it does.' if otherwise else ''}"
    )


def _cutting(tensors: Mapping[str, StoredTensor], share: Share) -> str | None:
    """Return the first matrix in int4 whose groups a share would cut."""
    for name, words in tensors.items():
        base, part = matrix_of(name)
        cut = cut_of(name, tensors, share) if part == "packed" and share.size > 1 else None
        if cut is None or cut.axis != 1:
            continue
        scale = tensors.get(f"{base}_scale")
        groups = scale.shape[-1] if scale is not None else 1
        least = words.shape[1] * 8 // INT4_GROUPS[-1] if groups == 1 else groups  # one scale serves any group
        if least % share.size:
            return base
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
