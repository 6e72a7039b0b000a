"""`ReferenceOps`: each method is the twin of a kernel, and differentiable where nothing is cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from llama4_local.ops.reference import attention, heads, moe, rows, sampling

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import Batch, PoolTable
    from llama4_local.ops.filters import Filters
    from llama4_local.ops.heads import HeadTransform
    from llama4_local.ops.penalties import Penalties
    from llama4_local.weights.tree import MlpWeights, MoeWeights


class ReferenceOps:
    """The functions of `llama4_local.ops.interface.Ops` in plain PyTorch, on any device."""

    def __init__(self) -> None:
        self._decode_plans = attention.DecodePlans()

    @property
    def prepared_weights(self) -> bool:
        """See `Ops.prepared_weights`."""
        return False

    @property
    def asynchronous(self) -> bool:
        """See `Ops.asynchronous`: sizes are copied to the host."""
        return False

    @property
    def host_lengths(self) -> bool:
        """See `Ops.host_lengths`."""
        return True

    def head(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Ops.head`."""
        return self.linear(x, weight)

    def embed(self, table: Tensor, token_ids: Tensor) -> Tensor:
        """See `Ops.embed`."""
        return functional.embedding(token_ids, table)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Ops.linear`."""
        return rows.linear(x, weight)

    def whole(self, x: Tensor) -> Tensor:
        """See `Ops.whole`."""
        return x

    def sum_over_ranks(self, x: Tensor, gather: Callable[[Tensor], Tensor]) -> Tensor:
        """See `Ops.sum_over_ranks`."""
        return rows.sum_in_order(gather(x))

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops.rms_norm`."""
        return rows.rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """See `Ops.add_rms_norm`."""
        total = x + residual
        return rows.rms_norm(total, weight, eps), total

    def qkv_epilogue(self, qkv: Tensor, plan: HeadTransform, layer: LayerCache, slots: Tensor) -> Tensor:
        """See `Ops.qkv_epilogue`."""
        queries, keys, values = heads.split_heads(qkv, plan)
        attention.write(layer, slots, keys, values)
        return queries

    def attention(self, queries: Tensor, layer: LayerCache, batch: Batch) -> Tensor:
        """See `Ops.attention`."""
        return attention.paged_attention(queries, layer, batch, self.decode)

    def decode(self, queries: Tensor, layer: LayerCache, table: PoolTable, places: list[int]) -> Tensor:
        """Return attention of sequences that add one token, see `attention.Decode`."""
        return self._decode_plans.decode(queries, layer, table, places)

    def mlp(self, x: Tensor, weights: MlpWeights) -> Tensor:
        """See `Ops.mlp`."""
        return moe.mlp(x, weights, self.linear)

    def moe(self, x: Tensor, weights: MoeWeights) -> Tensor:
        """See `Ops.moe`."""
        return self.experts(x, self.router_logits(x, weights.router), weights)

    def router_logits(self, x: Tensor, router: Tensor) -> Tensor:
        """See `Ops.router_logits`."""
        return self.linear(x, router)

    def experts(self, x: Tensor, router_logits: Tensor, weights: MoeWeights) -> Tensor:
        """See `Ops.experts`."""
        return moe.experts(x, router_logits, weights, self.linear)

    def adjust(self, logits: Tensor, penalties: Penalties | None, allowed: Tensor | None) -> None:
        """See `Ops.adjust`."""
        sampling.adjust(logits, penalties, allowed)

    def sample(self, logits: Tensor, filters: Filters, seeds: Tensor, steps: Tensor) -> Tensor:
        """See `Ops.sample`."""
        return sampling.sample(logits, filters, seeds, steps)
