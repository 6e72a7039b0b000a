"""From a checkpoint folder to a `Model` that runs, its matrices quantized or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from llama4_local.checkpoint.fp8 import check_kind, holds_int4, is_quantized, load_fp8
from llama4_local.checkpoint.network import network_tensors, read_network
from llama4_local.checkpoint.plain import Progress, load_checkpoint, stored_dtype
from llama4_local.checkpoint.quantizing import load_quantizing
from llama4_local.config.formats import DTYPE_BYTES, MOST_STEP_TOKENS
from llama4_local.model.transformer import Model
from llama4_local.ops.cpu.functions import CpuOps, QuantizedCpuOps
from llama4_local.ops.cpu.measuring import Choice, choose, in_rows
from llama4_local.ops.interface import select_ops
from llama4_local.ops.kernels.layout import prepare
from llama4_local.ops.reference.quantized import QuantizedReferenceOps
from llama4_local.weights.expert_stack import ExpertStack
from llama4_local.weights.quantize import quantize_fp8
from llama4_local.weights.schema import matrix_numbers, matrix_shapes
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from llama4_local.config.formats import HeadType, WeightFormat
    from llama4_local.config.model import ModelConfig
    from llama4_local.model.ranks import Ranks
    from llama4_local.weights.quantized import Matrix
    from llama4_local.weights.tree import Weights, WeightTree

_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_BYTES}


def load_model(
    folder: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    quantize: WeightFormat | None = None,
    head_dtype: HeadType = "auto",
    keep: bool = True,
    verify: bool = False,
    deterministic: bool = False,
    progress: Progress | None = None,
    packing: Progress | None = None,
) -> Model:
    """Read, check and load a checkpoint.

    Args:
        folder: In Hugging Face form; checkpoints published in FP8 are loaded as they are.
        device: Torch device; on a Hopper GPU the Triton kernels run the model.
        dtype: `float32`, `float16`, `bfloat16`, or `auto` for the stored dtype. With quantized matrices it is the
            dtype of the activations.
        quantize: Weight format that the layers' matrices of a plain checkpoint are quantized to; None for none.
        head_dtype: `fp8` to pack the output head too.
        keep: Whether the quantized form is kept beside the checkpoint for the next start.
        verify: Whether checksums of a kept form are compared at every start.
        deterministic: A row's result is the same bits in any step: on a Hopper GPU, one tile config of each kernel for
            any number of tokens; elsewhere `InvariantOps`, whose choice no timing decides.
        progress: Called with the bytes of the checkpoint done so far and in all.
        packing: Called instead of `progress` while matrices are quantized.

    Raises:
        CheckpointError: A folder that cannot be served; all problems are listed.
        InvalidRequest: An unknown dtype, a matrix that int4 groups do not divide, or int4 of a checkpoint in FP8.
    """
    if dtype != "auto" and dtype not in _DTYPES:
        raise InvalidRequest(f"dtype must be auto, {', '.join(_DTYPES)}, got {dtype!r}")
    config = read_network(folder).config
    packs = quantize is not None or head_dtype != "auto"
    choice = None if packs else _choice(folder, config, device, _DTYPES.get(dtype), timed=not deterministic)
    weights = load_weights(
        folder,
        config,
        quantize=quantize,
        head_dtype=head_dtype,
        dtype=_DTYPES.get(dtype),
        device=device,
        keep=keep,
        verify=verify,
        choice=choice,
        progress=progress,
        packing=packing,
    )
    return model_of(config, weights, deterministic=deterministic, choice=choice)


def load_weights(
    folder: str | Path,
    config: ModelConfig,
    *,
    quantize: WeightFormat | None = None,
    head_dtype: HeadType = "auto",
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    keep: bool = True,
    verify: bool = False,
    choice: Choice | None = None,
    progress: Progress | None = None,
    packing: Progress | None = None,
) -> WeightTree[Matrix]:
    """Load a network's weights in the weight format that its folder and `quantize` determine; see `load_model`.

    Args:
        folder: In Hugging Face form.
        config: The result of `read_config` for the same folder.
        quantize: Weight format that the layers' matrices of a plain checkpoint are quantized to.
        head_dtype: `fp8` to pack the output head too.
        dtype: Of the tensors that are not quantized; None for the stored dtype.
        device: Torch device.
        keep: Whether the quantized form is kept.
        verify: Whether checksums of a kept form are compared at every start.
        choice: Layouts of plain matrices on a CPU; as they are stored where left out.
        progress: Called with the bytes of the checkpoint done so far and in all.
        packing: Called instead of `progress` while matrices are quantized.
    """
    folder = Path(folder)
    stored = network_tensors(folder, config)
    dtype = dtype or stored_dtype(stored)
    # Laid out while it is read: copying a loaded network into another layout needs its memory twice.
    stacked = select_ops(device, dtype=dtype, head_dim=config.text.head_dim).prepared_weights
    if is_quantized(stored):
        check_kind(quantize, int4=holds_int4(stored))
        weights = load_fp8(folder, config, dtype=dtype, device=device, stacked=stacked, progress=progress)
    elif quantize is None:
        weights = load_checkpoint(
            folder, config, dtype=dtype, device=device, stacked=stacked, choice=choice, progress=progress
        )
    else:
        weights = load_quantizing(
            folder,
            config,
            quantize,
            dtype=dtype,
            device=device,
            keep=keep,
            verify=verify,
            progress=progress,
            packing=packing,
        )
    return weights if head_dtype == "auto" else with_fp8_head(weights)


def with_fp8_head(weights: WeightTree[Matrix]) -> WeightTree[Matrix]:
    """Return the same network with its output head packed into FP8."""
    return replace(weights, head=quantize_fp8(weights.head)) if isinstance(weights.head, Tensor) else weights


def model_of(
    config: ModelConfig,
    weights: WeightTree[Matrix],
    *,
    deterministic: bool = False,
    choice: Choice | None = None,
    ranks: Ranks | None = None,
) -> Model:
    """Return the model that runs these weights on the device they are on; `choice` as they were loaded with.

    With `ranks`, config and weights are one rank's share.
    """
    plain = cast("Weights", weights).embedding
    ops = select_ops(plain.device, dtype=plain.dtype, head_dim=config.text.head_dim, deterministic=deterministic)
    if ops.prepared_weights:
        weights = prepare(weights)
    elif deterministic:
        pass
    elif not all(isinstance(leaf, Tensor | ExpertStack) for leaf in weights.leaves()):
        # Rounding activations buys nothing without the kernels' FP8 products.
        on_cpu = plain.device.type == "cpu" and ranks is None
        ops = QuantizedCpuOps(plain.dtype) if on_cpu else QuantizedReferenceOps(exact_rows=MOST_STEP_TOKENS)
    elif choice is not None:
        ops = CpuOps(choice.products, plain.dtype)
    return Model.create(config, cast("Weights", weights), ops, ranks)


def _choice(
    folder: str | Path, config: ModelConfig, device: str, dtype: torch.dtype | None, *, timed: bool = True
) -> Choice | None:
    """Choose the products of a plain network on a CPU, by timing them or not; None where nothing is to be chosen."""
    stored, text = network_tensors(folder, config), config.text
    dtype = dtype or stored_dtype(stored)
    if torch.device(device).type != "cpu" or is_quantized(stored):
        return None
    if select_ops(device, dtype=dtype, head_dim=text.head_dim).prepared_weights:
        return None
    shapes = matrix_shapes(text)
    return choose(shapes, dtype, network=matrix_numbers(text)) if timed else in_rows(shapes, dtype)
