"""Loads a network from a Hugging Face folder, checked before it is read.

Every tensor's name, shape and type is checked from the headers first; all problems come in one
`CheckpointError`. Values that are not finite are found while loading, again all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from llama4_local.checkpoint.assembler import Assembler
from llama4_local.checkpoint.network import network_tensors
from llama4_local.checkpoint.reader import MappedFiles, TensorReader, stored_bytes
from llama4_local.config.formats import STORED_NAMES
from llama4_local.ops.cpu.measuring import Choice
from llama4_local.weights.schema import expected_tensors, single_names, weight_schema
from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.tree import Weights

Progress = Callable[[int, int], None]

DTYPES: dict[str, torch.dtype] = {stored: getattr(torch, name) for name, stored in STORED_NAMES.items()}


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
    stored = network_tensors(folder, config)
    expected = _expected_names(config, stored)
    problems = _quantized(stored)
    problems += [f"{name} is missing (shape {shape})" for name, shape in expected.items() if name not in stored]
    problems += [f"{name} is not part of this network" for name in stored if name not in expected]
    for name in expected.keys() & stored.keys():
        problems += _misfit(stored[name], expected[name])
    if problems:
        raise CheckpointError(folder, problems)
    return CheckedFolder(stored, sum(map(stored_bytes, stored.values())))


def load_checkpoint(
    folder: str | Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    stacked: bool = False,
    choice: Choice | None = None,
    progress: Progress | None = None,
) -> Weights:
    """Load a network, tensor by tensor.

    Files are mapped into memory: a CPU model in its stored type shares their pages, so they must not be
    changed while it is in use. Matrices that are read faster in another layout are copied into it.

    Args:
        folder: In Hugging Face form; fused experts or one tensor per expert.
        config: As `read_config` returns it for the same folder.
        dtype: Type of all tensors; by default the one they are stored in.
        device: Where they go.
        stacked: Whether experts are laid out for the kernels, [experts + 1, in, out] with the shared one
            last; `shared` is a view of them.
        choice: Layouts of the matrices on a CPU; as they are stored where left out.
        progress: Called with the bytes read so far and in all, at least once for each tensor; whatever it
            raises ends the loading.

    Raises:
        CheckpointError: See `check_checkpoint`; or values that are not finite.
    """
    checked = check_checkpoint(folder, config)
    source = TensorReader(checked.tensors, progress)
    with contextlib.ExitStack() as files:
        mapped = MappedFiles(files) if torch.device(device).type == "cpu" else None
        placing = Assembler(
            source,
            dtype or stored_dtype(checked.tensors),
            device,
            stacked=stacked,
            mapped=mapped,
            choice=choice or Choice(),
        )
        weights = placing.network(weight_schema(config))
    if source.problems:
        raise CheckpointError(folder, source.problems)
    return cast("Weights", weights)  # nothing in it is in e4m3


def stored_dtype(tensors: Mapping[str, StoredTensor]) -> torch.dtype:
    """Return the type that a checkpoint's plain tensors count as: that of its embedding, bf16 where that is unknown."""
    stored = (DTYPES.get(t.dtype) for name, t in tensors.items() if name.endswith("model.embed_tokens.weight"))
    return next(stored, None) or torch.bfloat16


def _expected_names(config: ModelConfig, stored: dict[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes a folder must have, with each layer's experts as it stores them."""
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_tensors(config).items():
        prefix = name.rpartition(".")[0]
        single = prefix.endswith(".experts") and name not in stored and f"{prefix}.0.down_proj.weight" in stored
        expected |= _per_expert(name, shape) if single else {name: shape}
    return expected


def _per_expert(fused: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    count, inner, outer = shape
    names = [single_names(fused, expert) for expert in range(count)]
    return {name: (outer // len(own), inner) for own in names for name in own}


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
