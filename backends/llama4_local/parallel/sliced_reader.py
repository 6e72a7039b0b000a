"""Reads from a checkpoint's files what one rank takes of each tensor, and nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from llama4_local.checkpoint.reader import TensorReader, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.checkpoint.reader import MappedFiles
    from llama4_local.parallel.share import Share

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
        one_for_all = scales and stored_bytes(replace(stored, dtype="U8")) == 1
        return None if one_for_all else Cut(0, (share.range(stored.shape[0]),))
    if kind in _COLUMNS and not scales:
        return Cut(1, (share.range(stored.shape[1]),))
    return None


class SlicedReader(TensorReader):
    """A `TensorReader` of one rank's share: names are those of the checkpoint, shapes those of the share.

    Args:
        tensors: Where the whole tensors are.
        share: The rank.
        progress: As `TensorReader` calls it, with bytes of the share.
    """

    def __init__(
        self, tensors: dict[str, StoredTensor], share: Share, progress: Callable[[int, int], None] | None = None
    ) -> None:
        cuts = {name: cut_of(name, stored, share) for name, stored in tensors.items()}
        self._cuts = {name: cut for name, cut in cuts.items() if cut is not None}
        own = {name: _cut_shape(stored, cuts[name]) for name, stored in tensors.items()}
        super().__init__(own, progress)

    def lend(self, name: str, index: int | None = None) -> Tensor:
        """See `TensorReader.lend`."""
        cut = self._cuts.get(name)
        if cut is None:
            return super().lend(name, index)
        stored = self.tensors[name]
        size = stored_bytes(stored)
        with safe_open(stored.file, framework="pt") as file:
            whole = file.get_slice(stored.key)
            parts = [whole[_key(cut.axis, start, stop, index)] for start, stop in cut.ranges]
        axis = cut.axis if index is None else cut.axis - 1
        part = parts[0] if len(parts) == 1 else _joined(parts, axis)
        return self._checked(name, part, size if index is None else size // stored.shape[0])

    def share(self, name: str, files: MappedFiles) -> Tensor:
        """See `TensorReader.share`; of a tensor that is cut, a copy of the part."""
        return self.read(name) if name in self._cuts else super().share(name, files)


def _cut_shape(stored: StoredTensor, cut: Cut | None) -> StoredTensor:
    if cut is None:
        return stored
    shape = (*stored.shape[: cut.axis], cut.length, *stored.shape[cut.axis + 1 :])
    return replace(stored, shape=shape)


def _key(axis: int, start: int, stop: int, index: int | None) -> tuple[int | slice, ...]:
    before: list[int | slice] = [slice(None)] * axis
    if index is not None:
        before[0] = index
    return (*before, slice(start, stop))


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    if parts[0].dtype == torch.float8_e4m3fn:  # which torch does not join
        return torch.cat([part.view(torch.uint8) for part in parts], axis).view(torch.float8_e4m3fn)
    return torch.cat(parts, axis)
