"""From a checkpoint folder to a `Model` whose matrices may be packed, on the CPU or on a Hopper GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from llama4_local.checkpoint import load_checkpoint, stored_dtype
from llama4_local.config_file import read_config
from llama4_local.fp8_checkpoint import check_kind, is_fp8, load_fp8
from llama4_local.kernels.layout import prepare
from llama4_local.model.transformer import Model
from llama4_local.ops import choose_ops
from llama4_local.packing import load_packed
from llama4_local.reference.quantized import PackedReferenceOps
from llama4_local.tensor_files import find_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.config import ModelConfig
    from llama4_local.quantize import Kind
    from llama4_local.quantized import Matrix
    from llama4_local.weights import Weights, WeightTree


def load_packed_model(
    folder: str | Path,
    *,
    quantize: Kind | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.bfloat16,
    deterministic: bool = False,
    keep: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Read, check, pack and load a checkpoint.

    Args:
        folder: In Hugging Face form; checkpoints published in FP8 are loaded as they are.
        quantize: How the layers' matrices of a plain checkpoint are packed; None for not at all.
        device: Torch device; `cuda` takes the Triton kernels, which want bf16.
        dtype: Of what is not packed; None for the type it is stored in.
        deterministic: On `cuda`, one cut of each kernel for any number of tokens.
        keep: Whether to keep the packed form beside the checkpoint.
        progress: Called with the bytes of the checkpoint done so far and in all.

    Raises:
        CheckpointError: A folder that cannot be served; all problems are listed.
        InvalidRequest: A matrix that int4 groups do not divide, or int4 of a checkpoint that is in FP8.
    """
    config = read_config(folder)
    weights = load_weights(folder, config, quantize=quantize, dtype=dtype, device=device, keep=keep, progress=progress)
    return packed_model(config, weights, deterministic=deterministic)


def load_weights(
    folder: str | Path,
    config: ModelConfig,
    *,
    quantize: Kind | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    keep: bool = True,
    progress: Callable[[int, int], None] | None = None,
    packing: Callable[[int, int], None] | None = None,
) -> WeightTree[Matrix]:
    """Load a network in whatever form its folder and `quantize` make of it; see `load_packed_model`.

    Args:
        folder: In Hugging Face form.
        config: As `read_config` returns it for the same folder.
        quantize: How the layers' matrices of a plain checkpoint are packed.
        dtype: Of what is not packed; None for the type it is stored in.
        device: Torch device.
        keep: Whether to keep the packed form.
        progress: Called with the bytes of the checkpoint done so far and in all.
        packing: Called instead while matrices are packed.
    """
    folder = Path(folder)
    stored = find_tensors(folder)
    dtype = dtype or stored_dtype(stored)
    # Laid out as it is read: a network that is copied afterwards takes its room twice.
    stacked = choose_ops(device, dtype=dtype, head_dim=config.text.head_dim).capturable
    if is_fp8(stored):
        check_kind(quantize)
        return load_fp8(folder, config, dtype=dtype, device=device, stacked=stacked, progress=progress)
    if quantize is None:
        return load_checkpoint(folder, config, dtype=dtype, device=device, stacked=stacked, progress=progress)
    return load_packed(
        folder,
        config,
        quantize,
        dtype=dtype,
        device=device,
        keep=keep,
        progress=progress,
        packing=packing,
    )


def packed_model(config: ModelConfig, weights: WeightTree[Matrix], *, deterministic: bool = False) -> Model:
    """Return the model that runs these weights, packed or not, where they are."""
    plain = cast("Weights", weights).embedding
    ops = choose_ops(plain.device, dtype=plain.dtype, head_dim=config.text.head_dim, deterministic=deterministic)
    if ops.capturable:
        weights = prepare(weights)
    elif not all(isinstance(leaf, Tensor) for leaf in weights.leaves()):
        ops = PackedReferenceOps()
    # The model hands matrices to its ops as they are; whether they are tensors concerns nobody in between.
    return Model.create(config, cast("Weights", weights), ops)
