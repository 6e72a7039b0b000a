"""From options to an engine that is ready to serve."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from llama4_local.cache.kv_cache import cache_dtype_of
from llama4_local.cache.sizing import cache_shape
from llama4_local.checkpoint.loader import load_model
from llama4_local.config.options import step_tokens
from llama4_local.engine.cuda_graphs import cuda_capture
from llama4_local.engine.engine import Engine, EngineLimits
from llama4_local.nano import CHECKPOINT
from llama4_local.parallel.starting import load_over_ranks
from llama4_local.serving.load_log import log_cache, log_loaded
from llama4_local.serving.progress_bar import packing_bar
from llama4_local.serving.vocabulary import ids_without_token

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.config.options import Options
    from llama4_local.engine.mailbox import Outbox
    from llama4_local.model.transformer import Model
    from llama4_local.serving.engine_thread import Report
    from llama4_local.serving.readiness import ServedModel


def build_engine(folder: Path, options: Options, served: ServedModel, *, outbox: Outbox, report: Report) -> Engine:
    """Load a checkpoint and return the engine that serves it.

    Args:
        folder: The checkpoint.
        options: The backend's options.
        served: The checked checkpoint.
        outbox: Takes the engine's events.
        report: Called with bytes read and bytes in all, in the phases `loading` and `packing`, and with steps in
            the phase `warming`.

    Raises:
        CheckpointError: Tensors that cannot be served.
        InvalidRequest: Memory that not even one sequence fits into.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = torch.device(served.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # of this thread: kernels start on the current device
    began = time.monotonic()
    with packing_bar(folder.name, enabled=options.progress) as draw:

        def packing(done: int, total: int) -> None:
            draw(done, total)
            report(done, total, "packing")

        if options.tensor_parallel > 1:
            model = load_over_ranks(
                folder,
                options.share,
                served.devices,
                dtype=options.dtype,
                quantize=options.quantize,
                head_dtype=options.head_dtype,
                threads=options.threads,
                keep=folder != CHECKPOINT,
                verify=options.verify,
                progress=report,
            )
        else:
            model = load_model(
                folder,
                device=served.device,
                dtype=options.dtype,
                quantize=options.quantize,
                head_dtype=options.head_dtype,
                deterministic=options.deterministic,
                keep=folder != CHECKPOINT,  # quick to quantize, and a package must not write into itself
                verify=options.verify,
                progress=report,
                packing=packing,
            )
    config = options.share.config(served.config)
    log_loaded(folder, model, options.quantize, time.monotonic() - began)
    without_token = ids_without_token(served.config.text.vocab_size, served.template.tokenizer)
    model = replace(model, config=config).excluding(without_token)
    try:
        return _engine(model, options, served, outbox=outbox, report=report)
    except BaseException:
        if model.ranks is not None:
            model.ranks.close()
        raise


def _engine(model: Model, options: Options, served: ServedModel, *, outbox: Outbox, report: Report) -> Engine:
    cache_dtype = cache_dtype_of(options.cache_dtype, model.dtype)
    shape = cache_shape(
        model.config.text,
        context=served.context,
        sequences=options.max_sequences,
        memory=served.cache_memory,
        itemsize=cache_dtype.itemsize,
    )
    log_cache(shape, cache_dtype, served.context, options.max_sequences)
    limits = EngineLimits(
        step_tokens=step_tokens(options, model.device.type),
        max_sequences=options.max_sequences,
        max_waiting=options.max_waiting,
        prefix_caching=options.prefix_caching,
        speculate=options.speculate is not None,
    )
    engine = Engine(model, shape, limits, tokenizer=served.template.tokenizer, outbox=outbox, cache_dtype=cache_dtype)
    if model.ops.asynchronous:
        capture = cuda_capture() if options.cuda_graphs else None
        try:
            engine.warm_up(capture, lambda done, total: report(done, total, "warming", "steps"))
        except BaseException:
            engine.close()  # graphs before the ranks that they gather from
            raise
    return engine
