"""From a checkpoint folder to a `Model` that can be run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.checkpoint import load_checkpoint
from llama4_local.config_file import read_config
from llama4_local.model.transformer import Model
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.checkpoint import Progress

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(
    folder: str | Path, *, device: str = "cpu", dtype: str = "auto", progress: Progress | None = None
) -> Model:
    """Read, check and load a checkpoint.

    Args:
        folder: In Hugging Face form.
        device: Torch device.
        dtype: `float32`, `float16`, `bfloat16`, or `auto` for the type the weights are stored in.
        progress: See `load_checkpoint`.

    Raises:
        CheckpointError: A folder that cannot be served; all problems are listed.
        InvalidRequest: No such type.
    """
    if dtype != "auto" and dtype not in _DTYPES:
        raise InvalidRequest(f"dtype must be auto, {', '.join(_DTYPES)}, got {dtype!r}")
    config = read_config(folder)
    weights = load_checkpoint(folder, config, dtype=_DTYPES.get(dtype), device=device, progress=progress)
    return Model.create(config, weights)
