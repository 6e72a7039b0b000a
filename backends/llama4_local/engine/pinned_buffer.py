"""What the host tells the device before a step: laid out in one pinned buffer and sent in one copy.

Values that are put in the same order and number lie at the same addresses every time, so a CUDA graph may read
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Kernels are compiled for addresses that are multiples of 16 and for others: here all are.
_ALIGNMENT = 64
_TURNS = 2  # steps in flight, whose copies must not be overwritten

Kind = type[np.int64] | type[np.float32] | type[np.float64]
_TYPES: dict[Kind, torch.dtype] = {np.int64: torch.int64, np.float32: torch.float32, np.float64: torch.float64}


@dataclass(frozen=True, slots=True)
class BufferRegion:
    """Where some values lie in the buffer."""

    offset: int
    shape: tuple[int, ...]
    kind: Kind

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.offset + prod(self.shape) * np.dtype(self.kind).itemsize


class PinnedBuffer:
    """A buffer on the device, and two on the host that take turns.

    Args:
        size: Bytes of each.
        device: Where to.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        pinned = device.type == "cuda"
        self._hosts = [torch.zeros(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(_TURNS)]
        self._bytes = [host.numpy() for host in self._hosts]
        self._turn = 0
        self._used = 0

    def begin(self) -> None:
        """Start anew, in the host buffer whose last copy is the older one: it must have arrived."""
        self._turn = (self._turn + 1) % _TURNS
        self._used = 0

    def put(self, values: Sequence[int] | Sequence[float] | np.ndarray, kind: Kind = np.int64) -> BufferRegion:
        """Lay values out behind those before.

        Raises:
            ValueError: They do not fit, so the buffer was made too small.
        """
        array = np.asarray(values, dtype=kind)
        place = BufferRegion(self._used, array.shape, kind)
        if place.end > self._size:
            raise ValueError(f"a step's numbers take more than the {self._size} bytes that were planned for them")
        self._bytes[self._turn][place.offset : place.end].view(kind)[:] = array.reshape(-1)
        self._used = -(-place.end // _ALIGNMENT) * _ALIGNMENT
        return place

    def send(self) -> None:
        """Copy all that was put, in the order of the device's work; the host does not wait."""
        end = min(self._used, self._size)
        self._device[:end].copy_(self._hosts[self._turn][:end], non_blocking=True)

    def view(self, place: BufferRegion) -> Tensor:
        """Return the values as the device has them once they are sent."""
        return self._device[place.offset : place.end].view(_TYPES[place.kind]).view(place.shape)
