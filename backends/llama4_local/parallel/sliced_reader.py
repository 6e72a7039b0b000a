"""Reads from a checkpoint's files what one rank takes of each tensor, and nothing else of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from llama4_local.checkpoint.cuts import cut_of, cut_shape, matrix_of
from llama4_local.checkpoint.reader import TensorReader, stored_bytes
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from llama4_local.checkpoint.cuts import Cut
    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.checkpoint.reader import MappedFiles
    from llama4_local.config.share import Share


class SlicedReader(TensorReader):
    """A `TensorReader` of one rank's share: names are those of the checkpoint, shapes those of the share.

    Args:
        tensors: Where the whole tensors are, as `own_tensors` names them.
        share: The rank.
        progress: As `TensorReader` calls it, with bytes of the share.
    """

    def __init__(
        self, tensors: dict[str, StoredTensor], share: Share, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._whole = tensors
        cuts = {name: cut_of(name, tensors, share) for name in tensors}
        self._cuts = {name: cut for name, cut in cuts.items() if cut is not None}
        own = {name: cut_shape(stored, cuts[name]) for name, stored in tensors.items()}
        super().__init__(own, progress)

    def lend(self, name: str, index: int | None = None) -> Tensor:
        """See `TensorReader.lend`."""
        cut = self._cuts.get(name)
        if cut is None:
            return super().lend(name, index)
        stored = self.tensors[name]
        if name.endswith("_g_idx"):
            return self._order(name, cut)
        size = stored_bytes(stored)
        with safe_open(stored.file, framework="pt") as file:
            whole = file.get_slice(stored.key)
            if index is not None and cut.axis == 0:  # one of this rank's experts
                parts = [whole[cut.ranges[0][0] + index]]
            else:
                parts = [whole[_key(cut.axis, start, stop, index)] for start, stop in cut.ranges]
        axis = cut.axis if index is None else cut.axis - 1
        part = parts[0] if len(parts) == 1 else _joined(parts, axis)
        return self._checked(name, part, size if index is None else size // stored.shape[0])

    def _order(self, name: str, cut: Cut) -> Tensor:
        """Return the groups of a slice's inputs, counted from its first one.

        Raises:
            InvalidRequest: They are not whole: inputs of other slices are among them.
        """
        base, _ = matrix_of(name)
        whole, scale = self._whole[name], self._whole[f"{base}_scale"]
        start, stop = cut.ranges[0]
        group = whole.shape[0] // scale.shape[1]
        with safe_open(whole.file, framework="pt") as file:
            part = self._checked(name, file.get_slice(whole.key)[start:stop], stored_bytes(self.tensors[name]))
        if bool((part < 0).all()):  # the order was not written
            return part
        groups = part - start // group
        if not torch.equal(groups.sort().values, (torch.arange(stop - start) // group).to(part.dtype)):
            raise InvalidRequest(
                f"The inputs of {base} are in activation order, so that a rank's slice would hold parts of groups; "
                "leave tensor_parallel= out, or give the checkpoint in bf16 with quantize='int4'."
            )
        return groups

    def share(self, name: str, files: MappedFiles) -> Tensor:
        """See `TensorReader.share`; of a tensor that is cut, a copy of the part."""
        return self.read(name) if name in self._cuts else super().share(name, files)


def _key(axis: int, start: int, stop: int, index: int | None) -> tuple[int | slice, ...]:
    before: list[int | slice] = [slice(None)] * axis
    if index is not None:
        before[0] = index
    return (*before, slice(start, stop))


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    if parts[0].dtype == torch.float8_e4m3fn:  # which torch does not join
        return torch.cat([part.view(torch.uint8) for part in parts], axis).view(torch.float8_e4m3fn)
    return torch.cat(parts, axis)
