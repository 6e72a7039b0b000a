"""Reads a checkpoint's tensors one at a time, keeping none of them.

What is not handed out any more takes no memory: files are mapped for as long as one tensor, or one expert of a fused
tensor, is copied. Only tensors that are to stay as they lie in their files keep those mapped.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import safe_open

from llama4_local.config.formats import STORED_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import ExitStack
    from pathlib import Path

    from torch import Tensor

    from llama4_local.checkpoint.headers import StoredTensor


class TensorReader:
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
        return self.lend(name).clone()

    def lend(self, name: str, index: int | None = None) -> Tensor:
        """Return a tensor, or one entry along its first axis, as it lies in its file.

        The file stays mapped until the tensor is dropped: copy it to its place and keep no view of it.
        """
        stored = self.tensors[name]
        size = stored_bytes(stored)
        with safe_open(stored.file, framework="pt") as file:
            if index is None:
                return self._checked(name, file.get_tensor(stored.key), size)
            return self._checked(name, file.get_slice(stored.key)[index], size // stored.shape[0])

    def share(self, name: str, files: MappedFiles) -> Tensor:
        """Return a tensor that shares the memory of its file, from now on."""
        stored = self.tensors[name]
        return self._checked(name, files.tensor(stored), stored_bytes(stored))

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
            self.problems.append(f"{self.tensors[name].name} has values that are not finite numbers")
        self._advance(size)
        return tensor

    def _advance(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


class MappedFiles:
    """Maps each file once, for tensors that stay where they are.

    Args:
        files: Closes the files; what is mapped stays until its last tensor is gone.
    """

    def __init__(self, files: ExitStack) -> None:
        self._files = files
        self._open: dict[Path, _OpenFile] = {}

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Return a tensor as it lies in its file."""
        if stored.file not in self._open:
            self._open[stored.file] = self._files.enter_context(safe_open(stored.file, framework="pt"))
        return self._open[stored.file].get_tensor(stored.key)


class _OpenFile(Protocol):
    def get_tensor(self, name: str) -> Tensor: ...


def stored_bytes(tensor: StoredTensor) -> int:
    """Return how many bytes a tensor takes in its file."""
    total = STORED_BYTES.get(tensor.dtype, 1)
    for size in tensor.shape:
        total *= size
    return total


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinities; the extremes carry any, and take no memory to find."""
    if tensor.dtype == torch.float8_e4m3fn:  # NaN is 0x7F or 0xFF, the largest byte with a sign or without
        return int(tensor.view(torch.int8).max()) < 0x7F and int(tensor.view(torch.uint8).max()) < 0xFF
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
