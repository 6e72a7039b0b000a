"""From options to a running engine: what the engine's thread does before it serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from llama4_local.capacity import cache_shape, default_memory, size_in_bytes
from llama4_local.engine import Decodes, Engine, Limits
from llama4_local.model.loading import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.crossing import Outbox
    from llama4_local.options import Options

_STEP_TOKENS = {"cpu": 512, "cuda": 8192}  # enough to keep the device busy, little enough not to stall streams


def build_engine(
    folder: Path,
    options: Options,
    *,
    context: int,
    tokenizer: Decodes,
    outbox: Outbox,
    progress: Callable[[int, int], None],
) -> Engine:
    """Load a checkpoint and make the engine that serves it.

    Args:
        folder: The checkpoint.
        options: How to run it.
        context: Most tokens of a sequence.
        tokenizer: Turns tokens into text.
        outbox: Takes what the engine has to say.
        progress: Called with bytes read and bytes in all.

    Raises:
        CheckpointError: Tensors that cannot be served.
        InvalidRequest: Memory that not even one sequence fits into.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(folder, device=device, dtype=options.dtype, progress=progress)
    shape = cache_shape(
        model.config.text,
        context=context,
        sequences=options.max_sequences,
        memory=_memory(options, model.device),
        itemsize=model.dtype.itemsize,
    )
    limits = Limits(
        step_tokens=options.step_tokens or _STEP_TOKENS.get(model.device.type, _STEP_TOKENS["cpu"]),
        max_sequences=options.max_sequences,
        max_waiting=options.max_waiting,
        prefix_caching=options.prefix_caching,
    )
    return Engine(model, shape, limits, tokenizer=tokenizer, outbox=outbox)


def _memory(options: Options, device: torch.device) -> int:
    if options.memory is not None:
        return size_in_bytes(options.memory)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free * 9 // 10  # the rest is for what a step works with
    return default_memory()
