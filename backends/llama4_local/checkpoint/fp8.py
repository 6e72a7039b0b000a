"""Loads checkpoints that are published quantized, as they are: in FP8, or in int4 with groups.

Read are fbgemm's and ModelOpt's FP8, whose routed experts are fused with scales of their own, and llm-compressor's FP8
and int4, where each expert's matrices lie alone. What they leave in bf16 stays in bf16; matrices that serving
multiplies unpacked (embedding, head, router, image encoder) are unpacked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from llama4_local.checkpoint.assembler import Assembler, scale_name
from llama4_local.checkpoint.network import network_tensors
from llama4_local.checkpoint.pack_quantized import int4_problems, is_int4, names_of
from llama4_local.checkpoint.reader import TensorReader
from llama4_local.config.formats import STORED_E4M3, STORED_NAMES
from llama4_local.config.json_file import read_json_object
from llama4_local.weights.schema import expected_tensors, single_names, weight_schema
from llama4sdk.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.quantized import Matrix
    from llama4_local.weights.tree import WeightTree

_CONFIG_BYTES = 2**20
_READABLE = (*STORED_NAMES.values(), STORED_E4M3)


def is_fp8(tensors: dict[str, StoredTensor]) -> bool:
    """Whether a checkpoint holds matrices in e4m3."""
    return any(tensor.dtype == STORED_E4M3 for tensor in tensors.values())


def is_quantized(tensors: dict[str, StoredTensor]) -> bool:
    """Whether a checkpoint holds matrices in e4m3 or in int4."""
    return is_fp8(tensors) or holds_int4(tensors)


def holds_int4(tensors: dict[str, StoredTensor]) -> bool:
    """Whether a checkpoint holds matrices in int4."""
    return any(name.endswith("_packed") for name in tensors)


def check_kind(quantize: str | None, *, int4: bool = False) -> None:
    """Refuse to pack what is packed already in another form.

    Raises:
        InvalidRequest: `quantize` is neither None nor the checkpoint's own format.
    """
    own, shown = ("int4", "int4") if int4 else ("fp8", "FP8")
    if quantize not in (None, own):
        raise InvalidRequest(
            f"This checkpoint is in {shown} already, so quantize={quantize!r} would round it twice; leave quantize= "
            "out, or give the checkpoint in bf16."
        )


def load_fp8(
    folder: str | Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    stacked: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> WeightTree[Matrix]:
    """Load a network published in FP8; matrices in e4m3 stay so, the rest becomes `dtype`.

    Args:
        folder: In Hugging Face form.
        config: As `read_config` returns it for the same folder.
        dtype: Of what is not in e4m3.
        device: Where the tensors go.
        stacked: Whether experts are laid out for the kernels: the shared one last, where it is in the same
            format; `shared` is a view of them.
        progress: Called with the bytes read so far and in all; whatever it raises ends the loading.

    Raises:
        CheckpointError: Tensors or scales that are missing, not expected, of another shape or type, or not
            finite. Every problem is listed.
    """
    folder = Path(folder)
    stored = network_tensors(folder, config)
    check_fp8(folder, config, stored)
    source = TensorReader(stored, progress)
    placing = Assembler(source, dtype, device, activation_bound(folder), stacked)
    weights = placing.network(weight_schema(config))
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
    problems = [f"{name} is missing (shape {shape})" for name, shape in expected.items() if not _is_there(name, stored)]
    known = set(expected)
    for name, shape in expected.items():
        if is_int4(stored, name):
            problems += int4_problems(stored, name, shape)
            known.update(names_of(name))
        elif name in stored:
            problems += _misfit(stored, name, shape)
            known.add(scale_name(name))
    return problems + [f"{name} is not part of this network" for name in stored if name not in known]


def _is_there(name: str, stored: dict[str, StoredTensor]) -> bool:
    return name in stored or is_int4(stored, name)


def _expected(stored: dict[str, StoredTensor], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_tensors(config).items():
        if ".experts." in name and name not in stored:
            count, inner, outer = shape
            for expert in range(count):
                names = single_names(name, expert)
                expected |= dict.fromkeys(names, (outer // len(names), inner))
        else:
            expected[name] = shape
    return expected


def _misfit(stored: dict[str, StoredTensor], name: str, shape: tuple[int, ...]) -> list[str]:
    tensor, scale = stored[name], stored.get(scale_name(name))
    problems: list[str] = []
    if tensor.shape != shape:
        problems.append(f"{name} has shape {tensor.shape}, the config demands {shape}")
    if tensor.dtype not in _READABLE:
        problems.append(f"{name} is stored as {tensor.dtype}; {', '.join(_READABLE)} can be read")
    if (scale is not None) != (tensor.dtype == STORED_E4M3):
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
    if len(matrix) != 3:
        return count == 1
    experts, _, outputs = matrix
    return count in (1, experts, experts * outputs)


def activation_bound(folder: Path) -> float | None:
    """Return the largest magnitude that activations' scales are made for, where the checkpoint names one."""
    quantization = read_json_object(folder / "config.json", limit=_CONFIG_BYTES).get("quantization_config")
    bound = (
        cast("dict[str, object]", quantization).get("activation_scale_ub") if isinstance(quantization, dict) else None
    )
    return float(bound) if isinstance(bound, int | float) else None
