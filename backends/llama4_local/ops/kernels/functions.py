"""`KernelOps`: `llama4_local.ops.interface.Ops` on a Hopper GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from llama4_local.ops.kernels import gemv, heads, norms, sampling
from llama4_local.ops.kernels.activations import quantize_rows
from llama4_local.ops.kernels.attention_decode import attention_decode
from llama4_local.ops.kernels.attention_prefill import attention_prefill
from llama4_local.ops.kernels.down import down
from llama4_local.ops.kernels.gate_up import gate_up
from llama4_local.ops.kernels.launch import require
from llama4_local.ops.kernels.linear import linear
from llama4_local.ops.kernels.routing import route, route_and_dispatch
from llama4_local.ops.kernels.tile_table import PREFILL_TILE, TileTable
from llama4_local.ops.kernels.tiles import VectorTile, format_of
from llama4_local.ops.kernels.weights import operands
from llama4_local.weights.quantized import Fp8Matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import Batch
    from llama4_local.ops.filters import Filters
    from llama4_local.ops.heads import HeadTransform
    from llama4_local.ops.kernels.routing import Dispatch
    from llama4_local.ops.penalties import Penalties
    from llama4_local.weights.quantized import Matrix
    from llama4_local.weights.tree import MlpTree, MoeTree

_ROUTER_VECTOR = VectorTile(4, 1024, 4, 4, 1)


@dataclass(frozen=True, slots=True)
class KernelOps:
    """See `Ops`; activations are bf16, matrices bf16, FP8 or int4, as `prepare` lays them out.

    `linear` and the feed-forwards may return parts, [parts, tokens, size] in fp32: `add_rms_norm` and
    `qkv_epilogue` sum them as they read them, and `logits` where a small network's head is not much wider than deep.

    Args:
        tiles: Tile configs of all kernels.
        counters: Those of `arrival_counters`, of one stream's launches alone; None where second launches finish the
            work of several programs.
    """

    tiles: TileTable = field(default_factory=TileTable)
    counters: Tensor | None = None

    @property
    def prepared_weights(self) -> bool:
        """See `Ops.prepared_weights`."""
        return True

    @property
    def asynchronous(self) -> bool:
        """See `Ops.asynchronous`."""
        return True

    @property
    def host_lengths(self) -> bool:
        """See `Ops.host_lengths`."""
        return False

    def head(self, x: Tensor, weight: Matrix) -> Tensor:
        """See `Ops.head`; only a head that is not much wider than deep comes in parts."""
        product = self.linear(x, weight)
        return product if product.dim() == 2 else product.sum(0)

    def embed(self, table: Tensor, token_ids: Tensor) -> Tensor:
        """See `Ops.embed`."""
        return functional.embedding(token_ids, table)

    def whole(self, x: Tensor) -> Tensor:
        """See `Ops.whole`."""
        return norms.sum_parts(x) if x.dim() == 3 else x

    def sum_over_ranks(self, x: Tensor, gather: Callable[[Tensor], Tensor]) -> Tensor:
        """See `Ops.sum_over_ranks`; the ranks' parts are summed where they are read."""
        return gather(self.whole(x))

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops.rms_norm`."""
        return norms.rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """See `Ops.add_rms_norm`; x may come in parts."""
        return norms.add_rms_norm(x, residual, weight, eps)

    def qkv_epilogue(self, qkv: Tensor, plan: HeadTransform, layer: LayerCache, slots: Tensor) -> Tensor:
        """See `Ops.qkv_epilogue`; qkv may come in parts."""
        return heads.qkv_epilogue(qkv, plan, layer, slots)

    def linear(self, x: Tensor, weight: Matrix) -> Tensor:
        """See `Ops.linear`; the result may come in parts."""
        outputs, inputs = weight.shape[-2:]
        weight_format = format_of(weight)
        if self.tiles.uses_vector(weight_format, len(x)):
            return gemv.linear_vector(x, weight, self.tiles.linear_vector_tile(weight_format, outputs, inputs))
        activations, scales = _activations_for(x, weight)
        tile = self.tiles.linear_tile(weight_format, len(x), outputs, inputs)
        return linear(activations, weight, tile, x_scales=scales)

    def attention(self, queries: Tensor, layer: LayerCache, batch: Batch) -> Tensor:
        """See `Ops.attention`."""
        table = batch.tables[layer.pool]
        out = torch.empty_like(queries).flatten(1)
        if any(segment.length > 1 for segment in batch.segments):
            attention_prefill(queries, layer, batch.starts, table, PREFILL_TILE, out)
        if any(segment.length == 1 for segment in batch.segments):
            tile = self.tiles.decode_tile(len(batch.segments), e4m3=layer.keys.dtype == torch.float8_e4m3fn)
            attention_decode(queries, layer, batch.starts, table, tile, out, self.counters)
        return out

    def mlp(self, x: Tensor, weights: MlpTree[Matrix]) -> Tensor:
        """See `Ops.mlp`; the result may come in parts."""
        weight_format = format_of(weights.gate_up)
        if self.tiles.uses_vector(weight_format, len(x)):
            hidden = gemv.gate_up_vector(x, weights.gate_up, self.tiles.vector_tile(weight_format))
        else:
            activations, scales = _activations_for(x, weights.gate_up)
            tile = self.tiles.tile("gate_up", weight_format, len(x))
            hidden = gate_up(activations, weights.gate_up, tile, x_scales=scales)
        return self.linear(hidden, weights.down)

    def moe(self, x: Tensor, weights: MoeTree[Matrix]) -> Tensor:
        """See `Ops.moe`; the result comes in parts."""
        return self.experts(x, self._router_logits(x, weights.router), weights)

    def router_logits(self, x: Tensor, router: Matrix) -> Tensor:
        """See `Ops.router_logits`; in fp32."""
        logits = self._router_logits(x, router)
        return logits.sum(0) if logits.ndim == 3 else logits

    def experts(self, x: Tensor, router_logits: Tensor, weights: MoeTree[Matrix]) -> Tensor:
        """See `Ops.experts`; the result comes in parts, and so may the scores."""
        logits, experts = router_logits, router_logits.shape[-1]
        require(len(_values(weights.gate_up)) == experts + 1, "the shared expert must lie behind the others: `prepare`")
        weight_format = format_of(weights.gate_up)
        if self.tiles.uses_vector(weight_format, len(x)):
            tile, routing = self.tiles.vector_tile(weight_format), route(logits)
            hidden = gemv.gate_up_vector(x, weights.gate_up, tile, routing)
            return gemv.down_vector(hidden, weights.down, tile, routing)
        return self._grouped(x, weights, route_and_dispatch(logits))

    def adjust(self, logits: Tensor, penalties: Penalties | None, allowed: Tensor | None) -> None:
        """See `Ops.adjust`."""
        sampling.adjust(logits, penalties, allowed)

    def sample(self, logits: Tensor, filters: Filters, seeds: Tensor, steps: Tensor) -> Tensor:
        """See `Ops.sample`."""
        return sampling.sample(logits, filters, seeds, steps)

    def _grouped(self, x: Tensor, weights: MoeTree[Matrix], dispatch: Dispatch) -> Tensor:
        weight_format, groups = format_of(weights.gate_up), len(_values(weights.gate_up)) - 1
        activations, scales = _activations_for(x, weights.gate_up)
        tile = self.tiles.tile("gate_up", weight_format, len(x), groups)
        hidden = gate_up(activations, weights.gate_up, tile, dispatch=dispatch, x_scales=scales)
        activations, scales = _activations_for(hidden, weights.down)
        tile = self.tiles.tile("down", weight_format, len(x), groups)
        return down(activations, weights.down, tile, dispatch, x_scales=scales)

    def _router_logits(self, x: Tensor, router: Matrix) -> Tensor:
        if self.tiles.uses_vector("bf16", len(x)):
            return gemv.linear_vector(x, router, _ROUTER_VECTOR, dtype=torch.float32)
        return linear(x, router, self.tiles.tile("linear", "bf16", len(x)), dtype=torch.float32)


def _activations_for(x: Tensor, weight: Matrix) -> tuple[Tensor, Tensor | None]:
    """Return activations in the type that a weight's format is multiplied with, and their scales."""
    return quantize_rows(x, weight.bound) if isinstance(weight, Fp8Matrix) else (x, None)


def _values(weight: Matrix) -> Tensor:
    return operands(weight).values
