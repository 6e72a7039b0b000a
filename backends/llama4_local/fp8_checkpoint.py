"""Loads checkpoints that are published in FP8, as they are.

Two kinds are read: fbgemm's, whose routed experts are fused with scales of their own, and llm-compressor's,
where each expert's matrices lie alone. What they leave in bf16 stays in bf16.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from llama4_local.json_file import read_json_object
from llama4_local.packing import single_names
from llama4_local.quantize import stack
from llama4_local.quantized import Fp8Matrix
from llama4_local.tensor_files import StoredTensor, find_tensors
from llama4_local.tensor_source import TensorSource, is_finite
from llama4_local.weight_names import expected_tensors, weight_schema
from llama4sdk.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from llama4_local.config import ModelConfig
    from llama4_local.quantized import Matrix
    from llama4_local.weight_names import Pieces
    from llama4_local.weights import WeightTree

_CONFIG_BYTES = 2**20
_NARROW = "F8_E4M3"
_WIDE = ("F32", "F16", "BF16")


def is_fp8(tensors: dict[str, StoredTensor]) -> bool:
    """Whether a checkpoint holds matrices in e4m3."""
    return any(tensor.dtype == _NARROW for tensor in tensors.values())


def check_kind(quantize: str | None) -> None:
    """Refuse to pack what is in FP8 already in another form.

    Raises:
        InvalidRequest: `quantize` is neither None nor `fp8`.
    """
    if quantize not in (None, "fp8"):
        raise InvalidRequest(
            f"This checkpoint is in FP8 already, so quantize={quantize!r} would round it twice; leave quantize= out, "
            "or give the checkpoint in bf16."
        )


def load_fp8(
    folder: str | Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> WeightTree[Matrix]:
    """Load a network published in FP8; matrices in e4m3 stay so, the rest becomes `dtype`.

    Args:
        folder: In Hugging Face form.
        config: As `read_config` returns it for the same folder.
        dtype: Of what is not in e4m3.
        device: Where the tensors go.
        progress: Called with the bytes read so far and in all; whatever it raises ends the loading.

    Raises:
        CheckpointError: Tensors or scales that are missing, not expected, of another shape or type, or not
            finite. Every problem is listed.
    """
    folder = Path(folder)
    stored = find_tensors(folder)
    check_fp8(folder, config, stored)
    source = TensorSource(stored, progress)
    reader = _Reader(source, dtype, device, _bound(folder))
    weights = weight_schema(config).map(reader.matrix)
    if source.problems:
        raise CheckpointError(folder, source.problems)
    return weights


def check_fp8(folder: Path, config: ModelConfig, stored: dict[str, StoredTensor]) -> None:
    """Compare a folder's headers with its config, without reading any tensor.

    Raises:
        CheckpointError: See `load_fp8`.
    """
    problems = fp8_problems(stored, config)
    if problems:
        raise CheckpointError(folder, problems)


def fp8_problems(stored: dict[str, StoredTensor], config: ModelConfig) -> list[str]:
    """Return what an FP8 checkpoint lacks or has too much of, from its headers, one sentence each."""
    expected = _expected(stored, config)
    problems = [f"{name} is missing (shape {shape})" for name, shape in expected.items() if name not in stored]
    known = set(expected)
    for name, shape in expected.items():
        if name in stored:
            problems += _misfit(stored, name, shape)
            known.add(scale_name(name))
    return problems + [f"{name} is not part of this network" for name in stored if name not in known]


def scale_name(name: str) -> str:
    """Return the name of a matrix's scales."""
    return f"{name}_scale"


def _expected(stored: dict[str, StoredTensor], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_tensors(config).items():
        if ".experts." in name and name not in stored:
            count, inner, outer = shape
            for expert in range(count):
                names = single_names(name, expert)
                found |= dict.fromkeys(names, (outer // len(names), inner))
        else:
            found[name] = shape
    return found


def _misfit(stored: dict[str, StoredTensor], name: str, shape: tuple[int, ...]) -> list[str]:
    tensor, scale = stored[name], stored.get(scale_name(name))
    problems: list[str] = []
    if tensor.shape != shape:
        problems.append(f"{name} has shape {tensor.shape}, the config demands {shape}")
    if tensor.dtype not in (*_WIDE, _NARROW):
        problems.append(f"{name} is stored as {tensor.dtype}; {', '.join((*_WIDE, _NARROW))} can be read")
    if (scale is not None) != (tensor.dtype == _NARROW):
        problems.append(f"{name} ({tensor.dtype}) {'has' if scale else 'lacks'} scales, {scale_name(name)}")
    if scale is not None and not _fits(scale.shape, shape):
        problems.append(f"{scale.name} has shape {scale.shape}, which does not scale the outputs of {shape}")
    return problems


def _fits(scale: tuple[int, ...], matrix: tuple[int, ...]) -> bool:
    """Whether there is one scale for each output, or one for all."""
    count = 1
    for size in scale:
        count *= size
    if len(matrix) == 2:
        return count in (1, matrix[0])
    experts, _, outputs = matrix
    return count == experts * outputs


class _Reader:
    def __init__(self, source: TensorSource, dtype: torch.dtype, device: str, bound: float | None) -> None:
        self._source = source
        self._bound = bound
        self._dtype = dtype
        self._device = device

    def matrix(self, pieces: Pieces) -> Matrix:
        """Return one matrix of the network: joined rows, or a stack of experts."""
        first = pieces[0]
        if first.name not in self._source.tensors:
            return self._single_experts(first.name, first.shape[0])
        if self._source.tensors[first.name].dtype == _NARROW and len(first.shape) == 3:
            return self._fused_experts(first.name)
        return self._joined([piece.name for piece in pieces])

    def _joined(self, names: list[str]) -> Matrix:
        narrow = all(self._source.tensors[name].dtype == _NARROW for name in names)
        return (self._narrow(names) if narrow else self._wide(names)).to(self._device)

    def _narrow(self, names: list[str]) -> Fp8Matrix:
        parts = [self._source.read(name) for name in names]
        values = torch.cat([part.view(torch.uint8) for part in parts]).view(torch.float8_e4m3fn)
        scales = torch.cat([self._scales(name, len(part)) for name, part in zip(names, parts, strict=True)])
        return Fp8Matrix(values, scales, self._bound)

    def _wide(self, names: list[str]) -> Tensor:
        parts = [self._widened(name) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _widened(self, name: str) -> Tensor:
        part = self._source.read(name)
        if part.dtype == torch.float8_e4m3fn:  # joined with others that are not
            part = part.float() * self._scales(name, len(part))[:, None]
        wide = part.to(dtype=self._dtype)
        if wide.dtype != part.dtype and is_finite(part) and not is_finite(wide):
            self._source.problems.append(f"{name} has values that are not finite numbers in {self._dtype}")
        return wide.to(self._device)

    def _scales(self, name: str, outputs: int) -> Tensor:
        return self._source.read(scale_name(name)).float().flatten().expand(outputs).contiguous()

    def _fused_experts(self, name: str) -> Fp8Matrix:
        """[experts, in, out] with scales for each output becomes [experts, out, in]."""
        experts, _, outputs = self._source.tensors[name].shape
        values = torch.stack(
            [self._source.part(name, expert).view(torch.uint8).t().contiguous() for expert in range(experts)]
        )
        scales = self._source.read(scale_name(name)).float().reshape(experts, outputs)
        return Fp8Matrix(values.view(torch.float8_e4m3fn), scales, self._bound).to(self._device)

    def _single_experts(self, fused: str, count: int) -> Matrix:
        names = [single_names(fused, expert) for expert in range(count)]
        if self._source.tensors[names[0][0]].dtype == _NARROW:
            return stack((self._narrow(own) for own in names), count).to(self._device)
        return torch.stack([self._wide(own).t() for own in names])


def _bound(folder: Path) -> float | None:
    """Return the largest magnitude that activations' scales are made for, where the checkpoint names one."""
    quantization = read_json_object(folder / "config.json", limit=_CONFIG_BYTES).get("quantization_config")
    bound = (
        cast("dict[str, object]", quantization).get("activation_scale_ub") if isinstance(quantization, dict) else None
    )
    return float(bound) if isinstance(bound, int | float) else None
