"""Decodes one sequence at the longest context that the planner promises on the card, and compares the memory taken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hopper_clock import seconds
from hopper_inputs import DEVICE, REHEARSAL, SIZES
from hopper_times import Ceilings, Row

import llama4_local
from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import CacheShape
from llama4_local.model.transformer import Model
from llama4_local.ops.kernels.tiles import Format

Step = Callable[[Model, KvCache, list[int]], Callable[[], None]]


def longest(weight_format: Format, model: Model, ceilings: Ceilings, step: Step, taken: int) -> Row:
    """Return the time of a step at the longest context, its share of the floor, and planned and allocated bytes.

    Args:
        weight_format: Of the model's matrices.
        model: Scout, without an image encoder.
        ceilings: Measured rates.
        step: Makes a step of sequences with the given contexts.
        taken: Bytes that the weights took when they were made.
    """
    planned, context, shape = _planned(weight_format)
    before = _allocated()
    cache = KvCache.allocate(model.config.text, shape, dtype=torch.bfloat16, device=DEVICE)
    cache_bytes = _allocated() - before
    for tensor in (tensor for pair in cache.storage.values() for tensor in pair):
        tensor.normal_()
    took = seconds([step(model, cache, [context])], 9)
    row = 4 * SIZES.kv_heads * SIZES.dim  # bytes of keys and values of a token in a layer
    text = model.config.text
    near = (context - 1) % SIZES.chunk + 1
    read = row * (len(text.global_layers) * context + len(text.local_layers) * near)
    active = planned["active_bytes"]
    return {
        "format": weight_format,
        "case": f"decode 1 at {context}, the longest planned",
        "graph": True,
        "ms": took * 1e3,
        "tokens_per_second": 1 / took,
        "fraction": (active + read) / ceilings.copy / took,
        "weight_bytes": taken,
        "cache_bytes": cache_bytes,
        "peak_bytes": 0 if REHEARSAL else torch.cuda.max_memory_allocated(),
        **{f"planned_{name}": value for name, value in planned.items()},
    }


def _planned(weight_format: Format) -> tuple[dict[str, int], int, CacheShape]:
    """Return planned bytes, the longest context of one sequence, and the cache's shape for it."""
    if REHEARSAL:
        return {"active_bytes": 1}, 200, CacheShape(20, 20, SIZES.page, SIZES.chunk)
    memory = f"{torch.cuda.mem_get_info()[1] // 10**9}GB"
    quantize = None if weight_format == "bf16" else weight_format
    first = llama4_local.plan("scout", memory=memory, quantize=quantize)
    plan = llama4_local.plan("scout", memory=memory, quantize=quantize, context=first.longest_single)
    planned = {
        "weight_bytes": plan.weights.total - plan.weights.vision,
        "cache_bytes": plan.cache.total,
        "memory": plan.memory,
        "needed": plan.needed,
        "active_bytes": plan.steps[0].weight_bytes,
    }
    return planned, first.longest_single, plan.cache.shape


def _allocated() -> int:
    return 0 if REHEARSAL else torch.cuda.memory_allocated()
