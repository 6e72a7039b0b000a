"""Loads a network from a Hugging Face folder, checked before it is read, and saves one.

Every tensor's name, shape and type is checked from the headers first; all problems come in one
`CheckpointError`. Values that are not finite are found while loading, again all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import safe_open

from llama4_local.reference.layout import lay_out_experts
from llama4_local.tensor_files import StoredTensor, find_tensors
from llama4_local.weight_names import build_weights, expected_tensors
from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from llama4_local.config import ModelConfig
    from llama4_local.weights import Weights

Progress = Callable[[int, int], None]

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class TensorReader(Protocol):
    """An open safetensors file."""

    def get_tensor(self, name: str) -> Tensor:
        """Return one tensor, on the CPU and in its stored type."""
        ...


@dataclass(frozen=True, slots=True)
class CheckedFolder:
    """A folder whose headers fit its config.

    Args:
        tensors: Everything that will be read, by stored name.
        total_bytes: Sum of its stored sizes.
    """

    tensors: dict[str, StoredTensor]
    total_bytes: int


def check_checkpoint(folder: str | Path, config: ModelConfig) -> CheckedFolder:
    """Compare a folder's headers with its config, without reading any tensor.

    Raises:
        CheckpointError: See `find_tensors`; tensors that are missing, not expected, of another shape, or
            of a type that is not supported.
    """
    folder = Path(folder)
    stored = find_tensors(folder)
    expected = _expected_names(config, stored)
    problems = _quantized(stored)
    problems += [f"{name} is missing (shape {shape})" for name, shape in expected.items() if name not in stored]
    problems += [f"{name} is not part of this network" for name in stored if name not in expected]
    for name in expected.keys() & stored.keys():
        problems += _misfit(stored[name], expected[name])
    if problems:
        raise CheckpointError(folder, problems)
    sizes = (_ITEM_BYTES[tensor.dtype] * _count(tensor.shape) for tensor in stored.values())
    return CheckedFolder(stored, sum(sizes))


def load_checkpoint(
    folder: str | Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Weights:
    """Load a network, tensor by tensor.

    Files are mapped into memory: a CPU model in its stored type shares their pages, so they must not be
    changed while it is in use. Fused experts in fp32 are copied, see `lay_out_experts`.

    Args:
        folder: In Hugging Face form; fused experts or one tensor per expert.
        config: As `read_config` returns it for the same folder.
        dtype: Type of all tensors; by default the one they are stored in.
        device: Where they go.
        progress: Called with the bytes read so far and in all, at least once for each tensor; whatever it
            raises ends the loading.

    Raises:
        CheckpointError: See `check_checkpoint`; or values that are not finite.
    """
    checked = check_checkpoint(folder, config)
    with contextlib.ExitStack() as files:
        loader = _Loader(files, checked, dtype or stored_dtype(checked.tensors), device, progress)
        weights = build_weights(config, loader.get)
    if loader.problems:
        raise CheckpointError(folder, loader.problems)
    return weights


def stored_dtype(tensors: Mapping[str, StoredTensor]) -> torch.dtype:
    """Return the type that a checkpoint's plain tensors count as: that of its embedding, bf16 where that is unknown."""
    stored = (DTYPES.get(t.dtype) for name, t in tensors.items() if name.endswith("model.embed_tokens.weight"))
    return next(stored, None) or torch.bfloat16


class _Loader:
    def __init__(
        self,
        files: contextlib.ExitStack,
        checked: CheckedFolder,
        dtype: torch.dtype,
        device: str,
        progress: Progress | None,
    ) -> None:
        self.problems: list[str] = []
        self._files = files
        self._open: dict[Path, TensorReader] = {}
        self._checked = checked
        self._dtype = dtype
        self._device = device
        self._progress = progress
        self._done = 0

    def get(self, name: str) -> Tensor:
        """Return a tensor under its fused name, in the wanted type and place."""
        prefix, kind = name.rsplit(".", 1)  # …experts, gate_up_proj or down_proj
        if name in self._checked.tensors:
            return lay_out_experts(self._read(name)) if prefix.endswith(".experts") else self._read(name)
        parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        count = sum(stored.startswith(f"{prefix}.") for stored in self._checked.tensors) // 3
        return torch.stack([self._expert(f"{prefix}.{expert}", parts) for expert in range(count)]).transpose(1, 2)

    def _expert(self, prefix: str, parts: tuple[str, ...]) -> Tensor:
        return torch.cat([self._read(f"{prefix}.{part}.weight") for part in parts])

    def _read(self, name: str) -> Tensor:
        stored = self._checked.tensors[name]
        tensor = self._reader(stored.file).get_tensor(name)
        tensor = tensor.to(dtype=self._dtype, device=self._device)
        if not _is_finite(tensor):
            self.problems.append(f"{name} has values that are not finite numbers in {self._dtype}")
        self._done += _ITEM_BYTES[stored.dtype] * _count(stored.shape)
        if self._progress is not None:
            self._progress(self._done, self._checked.total_bytes)
        return tensor

    def _reader(self, file: Path) -> TensorReader:
        if file not in self._open:
            self._open[file] = self._files.enter_context(safe_open(file, framework="pt"))
        return self._open[file]


def _expected_names(config: ModelConfig, stored: dict[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes a folder must have, with each layer's experts as it stores them."""
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_tensors(config).items():
        prefix, kind = name.rsplit(".", 1)
        single = prefix.endswith(".experts") and name not in stored and f"{prefix}.0.down_proj.weight" in stored
        expected |= _per_expert(prefix, kind, shape) if single else {name: shape}
    return expected


def _per_expert(prefix: str, kind: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    count, inner, outer = shape
    parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
    rows = outer // len(parts)
    return {f"{prefix}.{expert}.{part}.weight": (rows, inner) for expert in range(count) for part in parts}


def _quantized(stored: dict[str, StoredTensor]) -> list[str]:
    for name, tensor in stored.items():
        if name.endswith(("_scale", "_packed", "_zero_point")) or tensor.dtype.startswith(("F8", "I", "U")):
            return [f"{name} ({tensor.dtype}) belongs to a quantized checkpoint of a kind that is not read"]
    return []


def _misfit(tensor: StoredTensor, shape: tuple[int, ...]) -> list[str]:
    problems: list[str] = []
    if tensor.shape != shape:
        problems.append(f"{tensor.name} has shape {tensor.shape}, the config demands {shape}")
    if tensor.dtype not in DTYPES:
        problems.append(f"{tensor.name} is stored as {tensor.dtype}; {', '.join(DTYPES)} can be read")
    return problems


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _is_finite(tensor: Tensor) -> bool:
    # The extremes carry any NaN or infinity, and finding them needs no memory.
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
