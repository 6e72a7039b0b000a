"""The inputs of a step in one pinned buffer, sent to the device in one copy.

Values that are put in the same order and number lie at the same addresses in every step, so that a CUDA graph can
read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from llama4_local.config.invariant import BrokenInvariant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

# Kernels are specialized for addresses that are multiples of 16; here all are.
_ALIGNMENT = 64
_HOST_BUFFERS = 2  # steps in flight, whose copies must not be overwritten
_WIDEST = 8  # bytes of the widest number that is sent
_COLUMNS = 16  # numbers for each token and sequence, beside page tables; 12 are needed
_GAPS = 4096  # bytes of alignment between regions

Number = type[np.int64] | type[np.float32] | type[np.float64]
_DTYPES: dict[Number, torch.dtype] = {np.int64: torch.int64, np.float32: torch.float32, np.float64: torch.float64}


@dataclass(frozen=True, slots=True)
class BufferRegion:
    """Where some values lie in the buffer."""

    offset: int
    shape: tuple[int, ...]
    number: Number

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.offset + prod(self.shape) * np.dtype(self.number).itemsize


def bytes_for(tokens: int, rows: int, widths: Iterable[int]) -> int:
    """Return the most bytes that a step's inputs take.

    Args:
        tokens: Most tokens.
        rows: Most sequences, padding ones among them.
        widths: Most pages of a sequence in each pool.
    """
    tables = 2 * rows * sum(widths)  # at most, as indices and pages
    return _WIDEST * (_COLUMNS * (tokens + rows) + tables) + _GAPS


class PinnedBuffer:
    """A buffer on the device, and two on the host that are filled in turns.

    Args:
        size: Bytes of each.
        device: The device.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        pinned = device.type == "cuda"
        self._hosts = [torch.zeros(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(_HOST_BUFFERS)]
        self._bytes = [host.numpy() for host in self._hosts]
        self._turn = 0
        self._used = 0

    def begin(self) -> None:
        """Start a step in the host buffer whose last copy is the older one: that copy must have arrived."""
        self._turn = (self._turn + 1) % _HOST_BUFFERS
        self._used = 0

    def put(self, values: Sequence[int] | Sequence[float] | np.ndarray, number: Number = np.int64) -> BufferRegion:
        """Append values and return their region.

        Raises:
            BrokenInvariant: They do not fit, so the buffer was made too small.
        """
        array = np.asarray(values, dtype=number)
        region = BufferRegion(self._used, array.shape, number)
        if region.end > self._size:
            raise BrokenInvariant(f"a step's numbers take more than the {self._size} bytes that were planned for them")
        self._bytes[self._turn][region.offset : region.end].view(number)[:] = array.reshape(-1)
        self._used = -(-region.end // _ALIGNMENT) * _ALIGNMENT
        return region

    def send(self) -> None:
        """Enqueue the copy of all values in the device's stream; the host does not wait."""
        end = min(self._used, self._size)
        self._device[:end].copy_(self._hosts[self._turn][:end], non_blocking=True)

    @property
    def content(self) -> Tensor:
        """A step's values as bytes on the host, valid until the next step but one."""
        return self._hosts[self._turn][: min(self._used, self._size)]

    def take(self, content: Tensor) -> None:
        """Take another buffer's values, bytes on the device, in place of `begin`, `put` and `send`."""
        self._device[: len(content)].copy_(content)

    def view(self, region: BufferRegion) -> Tensor:
        """Return a region's values on the device, valid in the stream after `send`."""
        return self._device[region.offset : region.end].view(_DTYPES[region.number]).view(region.shape)
