"""Lines at INFO on what was loaded: device, dtype, kernels or the reference and why, seconds, cache."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.cache.page_table import CacheShape
    from llama4_local.model.transformer import Model

_LOG = logging.getLogger("llama4_local")


def log_loaded(folder: Path, model: Model, quantize: str | None, seconds: float) -> None:
    """Log the model that was read, and the functions that run it."""
    dtype = str(model.dtype).removeprefix("torch.")
    packed = f", packed as {quantize}" if quantize else ""
    _LOG.info("Loaded %s on %s in %.1f s: %s%s.", folder, model.device, seconds, dtype, packed)
    _LOG.info("Its layers run in %s.", _functions(model))


def log_cache(shape: CacheShape, cache_dtype: torch.dtype, context: int, max_sequences: int) -> None:
    """Log the cache and the limits of requests."""
    kind = str(cache_dtype).removeprefix("torch.")
    _LOG.info("The cache is %s in %s; up to %d requests of %d tokens.", shape, kind, max_sequences, context)


def _functions(model: Model) -> str:
    if model.ops.asynchronous:
        return "Triton kernels"
    return f"PyTorch's reference functions: {_reason(model)}"


def _reason(model: Model) -> str:
    """Return why the kernels do not run a model."""
    if model.device.type != "cuda":
        return "the device is no GPU of NVIDIA's"
    if torch.version.hip:
        return "the GPU is AMD's, the kernels are for Hopper GPUs"
    if find_spec("triton") is None:
        return "Triton is not installed (pip install 'llama4sdk[gpu]')"
    major, minor = torch.cuda.get_device_capability(model.device)
    if major != 9:
        return f"{torch.cuda.get_device_name(model.device)} (sm_{major}{minor}) is no Hopper GPU; correct, but slow"
    return f"the kernels take bfloat16 and heads as wide as a power of two, not {model.dtype}"
