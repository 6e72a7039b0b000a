"""From a checkpoint folder to a `Model` that can be run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.config_file import read_config
from llama4_local.model.packed_loading import load_weights, packed_model
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.checkpoint import Progress
    from llama4_local.model.transformer import Model
    from llama4_local.quantize import Kind

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(
    folder: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    quantize: Kind | None = None,
    keep: bool = True,
    deterministic: bool = False,
    progress: Progress | None = None,
    packing: Progress | None = None,
) -> Model:
    """Read, check and load a checkpoint.

    Args:
        folder: In Hugging Face form; checkpoints published in FP8 are loaded as they are.
        device: Torch device.
        dtype: `float32`, `float16`, `bfloat16`, or `auto` for the type the weights are stored in. Of packed matrices
            it is the type that they are multiplied with.
        quantize: How the layers' matrices of a plain checkpoint are packed; None for not at all.
        keep: Whether the packed form is kept for the next time.
        deterministic: On a Hopper GPU, one cut of each kernel for any number of tokens.
        progress: See `load_checkpoint`.
        packing: Called instead while matrices are packed.

    Raises:
        CheckpointError: A folder that cannot be served; all problems are listed.
        InvalidRequest: No such type, or a checkpoint that cannot be packed so.
    """
    if dtype != "auto" and dtype not in _DTYPES:
        raise InvalidRequest(f"dtype must be auto, {', '.join(_DTYPES)}, got {dtype!r}")
    config = read_config(folder)
    weights = load_weights(
        folder,
        config,
        quantize=quantize,
        dtype=_DTYPES.get(dtype),
        device=device,
        keep=keep,
        progress=progress,
        packing=packing,
    )
    return packed_model(config, weights, deterministic=deterministic)
