"""Reads a checkpoint's tensors one at a time, keeping none of them and no file open.

Packing needs each tensor once. What is not handed out any more takes no memory: files are mapped for as long
as one tensor, or one expert of a fused tensor, is copied.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    from llama4_local.tensor_files import StoredTensor


class TensorSource:
    """The tensors of a checkpoint folder.

    Args:
        tensors: Where they are, from `find_tensors`.
        progress: Called with bytes read so far and in all; whatever it raises ends the reading.
    """

    def __init__(self, tensors: dict[str, StoredTensor], progress: Callable[[int, int], None] | None = None) -> None:
        self.tensors = tensors
        self.problems: list[str] = []
        self._progress = progress
        self._done = 0
        self._total = sum(map(stored_bytes, tensors.values()))

    def read(self, name: str) -> Tensor:
        """Return a tensor in its stored type; NaN and infinities are noted in `problems`."""
        stored = self.tensors[name]
        with safe_open(stored.file, framework="pt") as file:
            tensor = file.get_tensor(name).clone()
        return self._checked(name, tensor, stored_bytes(stored))

    def part(self, name: str, index: int) -> Tensor:
        """Return one entry along a tensor's first axis, in its stored type."""
        stored = self.tensors[name]
        with safe_open(stored.file, framework="pt") as file:
            tensor = file.get_slice(name)[index].clone()
        return self._checked(name, tensor, stored_bytes(stored) // stored.shape[0])

    def skip(self, names: list[str]) -> None:
        """Count tensors as read that need not be."""
        self._advance(sum(stored_bytes(self.tensors[name]) for name in names))

    @contextmanager
    def reporting(self, progress: Callable[[int, int], None] | None) -> Generator[None]:
        """Report to another callable within the block."""
        usual, self._progress = self._progress, progress
        try:
            yield
        finally:
            self._progress = usual

    def _checked(self, name: str, tensor: Tensor, size: int) -> Tensor:
        if not is_finite(tensor):
            self.problems.append(f"{name} has values that are not finite numbers")
        self._advance(size)
        return tensor

    def _advance(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


def stored_bytes(tensor: StoredTensor) -> int:
    """Return how many bytes a tensor takes in its file."""
    total = {"F32": 4, "F16": 2, "BF16": 2}.get(tensor.dtype, 1)
    for size in tensor.shape:
        total *= size
    return total


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinities; the extremes carry any, and take no memory to find."""
    if tensor.dtype == torch.float8_e4m3fn:
        return not bool((tensor.view(torch.uint8) & 0x7F == 0x7F).any())
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
