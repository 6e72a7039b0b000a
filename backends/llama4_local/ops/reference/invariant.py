"""`InvariantOps`: the reference functions, whose result for a row is the same bits in any step that computes it.

Steps differ in what else they hold, and in how they cut a prompt. What is left is the order of sums and the code that a
library takes for a number of rows; `invariant_rows` and `tiled_attention` fix both.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from llama4_local.config.formats import MOST_STEP_TOKENS
from llama4_local.ops.reference import attention, rows, sampling
from llama4_local.ops.reference.heads import split_heads
from llama4_local.ops.reference.invariant_rows import InvariantRows
from llama4_local.ops.reference.quantized import QuantizedReferenceOps

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import Batch
    from llama4_local.ops.filters import Filters
    from llama4_local.ops.heads import HeadTransform

_AT_ONCE = 1 << 24  # numbers of a matrix that are multiplied, and tried out, together


class InvariantOps(QuantizedReferenceOps):
    """The reference functions for `deterministic=True`; matrices may be packed. Elementary functions run in fp32."""

    def __init__(self) -> None:
        super().__init__(exact_rows=MOST_STEP_TOKENS)
        self._rows = InvariantRows()

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `QuantizedReferenceOps.product`."""
        outputs, inputs = weight.shape
        step = max(1, _AT_ONCE // inputs)
        parts = [self._rows.product(x, part, rows.linear) for part in weight.split(step)]
        return parts[0] if outputs <= step else torch.cat(parts, dim=1)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """See `QuantizedReferenceOps.swiglu`."""
        gate, up = gate_up.chunk(2, dim=-1)
        return self._rows.apply(functional.silu, gate.float(), key="silu").to(gate.dtype) * up

    def sigmoid(self, logits: Tensor) -> Tensor:
        """See `QuantizedReferenceOps.sigmoid`."""
        return self._rows.apply(torch.sigmoid, logits, key="sigmoid")

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops.rms_norm`."""
        norm = partial(rows.rms_norm, weight=None, eps=eps)
        return self._rows.apply(norm, x.float(), key=("norm", eps)).to(x.dtype) * weight

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """See `Ops.add_rms_norm`."""
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    def qkv_epilogue(self, qkv: Tensor, plan: HeadTransform, layer: LayerCache, slots: Tensor) -> Tensor:
        """See `Ops.qkv_epilogue`."""
        per_row = [x for x in (plan.rotation, plan.query_scale) if x is not None]

        def turned(own: Tensor, *given: Tensor) -> Tensor:
            left = list(given)
            rotation = None if plan.rotation is None else left.pop(0)
            scale = None if plan.query_scale is None else left.pop(0)
            here = replace(plan, rotation=rotation, query_scale=scale)
            return torch.cat(split_heads(own, here)[:2], dim=1)

        key = ("heads", plan.heads, plan.norm_eps, plan.rotation is None, plan.query_scale is None)
        done = self._rows.apply(turned, qkv.float(), *per_row, key=key).to(qkv.dtype)
        queries, keys = done.split([plan.heads, plan.kv_heads], dim=1)
        values = qkv.view(len(qkv), -1, plan.head_dim)[:, plan.heads + plan.kv_heads :]
        attention.write(layer, slots, keys, values)
        return queries.contiguous()

    def attention(self, queries: Tensor, layer: LayerCache, batch: Batch) -> Tensor:
        """See `Ops.attention`."""
        return attention.tiled_attention(queries, layer, batch)

    def sample(self, logits: Tensor, filters: Filters, seeds: Tensor, steps: Tensor) -> Tensor:
        """See `Ops.sample`; rows are drawn one by one."""
        return sampling.sample(logits, filters, seeds, steps, one_by_one=True)
