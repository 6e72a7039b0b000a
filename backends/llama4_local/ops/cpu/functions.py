"""The functions of layers on a CPU: compiled kernels where they fit, the reference functions for all else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llama4_local.config.formats import MOST_STEP_TOKENS
from llama4_local.ops.cpu import library
from llama4_local.ops.cpu.experts import MOST_ROWS
from llama4_local.ops.cpu.products import Products, compiled
from llama4_local.ops.reference.functions import ReferenceOps
from llama4_local.ops.reference.invariant import InvariantOps
from llama4_local.ops.reference.quantized import QuantizedReferenceOps

if TYPE_CHECKING:
    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import PoolTable
    from llama4_local.ops.heads import HeadTransform
    from llama4_local.weights.quantized import Matrix
    from llama4_local.weights.tree import MlpWeights, MoeWeights

_FEW = 32  # rows up to which weights are unpacked in registers, for every four rows anew; beyond, once into memory


class _NormOps(ReferenceOps):
    """Norms of rows."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops.rms_norm`."""
        return library.rms_norm(x, weight, eps) if library.norms_rows(x, weight) else super().rms_norm(x, weight, eps)


class _RowOps(_NormOps):
    """Norms, heads and attention, which do not depend on how matrices are stored."""

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """See `Ops.add_rms_norm`."""
        if library.norms_rows(x, weight) and library.norms_rows(residual, weight):
            return library.add_rms_norm(x, residual, weight, eps)
        return super().add_rms_norm(x, residual, weight, eps)

    def qkv_epilogue(self, qkv: Tensor, plan: HeadTransform, layer: LayerCache, slots: Tensor) -> Tensor:
        """See `Ops.qkv_epilogue`."""
        if library.transforms(qkv, plan, layer):
            return library.transform_heads(qkv, plan, layer, slots)
        return super().qkv_epilogue(qkv, plan, layer, slots)

    def decode(self, queries: Tensor, layer: LayerCache, table: PoolTable, places: list[int]) -> Tensor:
        """See `ReferenceOps.decode`."""
        if not library.attends(queries, layer):
            return super().decode(queries, layer, table, places)
        pages, lengths = table.pages, table.context_lengths
        if len(places) < len(table.contexts):
            pages, lengths = pages[places], lengths[places]
        return library.attend(queries, layer, pages, lengths, max(table.contexts[place] for place in places))


class CpuOps(_RowOps):
    """The functions of `llama4_local.ops.interface.Ops` on a CPU, for plain matrices.

    Args:
        products: The forms of products. Feed-forwards are one kernel where their products have the compiled form.
        dtype: That of the network, whose kernels are compiled here and not in its first step.
    """

    def __init__(self, products: Products, dtype: torch.dtype) -> None:
        super().__init__()
        self.products = products
        library.layer_machine(dtype)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Ops.linear`."""
        return self.products.linear(x, weight)

    def mlp(self, x: Tensor, weights: MlpWeights) -> Tensor:
        """See `Ops.mlp`."""
        if self._is_compiled(x.shape[0], weights) and library.takes(x, weights.gate_up, weights.down):
            return library.mlp(x, weights.gate_up, weights.down)
        return super().mlp(x, weights)

    def experts(self, x: Tensor, router_logits: Tensor, weights: MoeWeights) -> Tensor:
        """See `Ops.experts`."""
        rows, shared = x.shape[0], weights.shared
        if rows <= MOST_ROWS and isinstance(weights.gate_up, Tensor) and isinstance(weights.down, Tensor):
            gate_up, down = weights.gate_up.transpose(1, 2), weights.down.transpose(1, 2)
            each = -(-rows // len(gate_up))
            matrices = gate_up, down, shared.gate_up, shared.down
            if (
                self.products.form(each, gate_up[0]) is compiled
                and self._is_compiled(rows, shared)
                and library.takes(x, *matrices)
                and router_logits.dtype == x.dtype
                and library.takes(router_logits)
            ):
                return library.mixture(x, router_logits, *matrices)
        return super().experts(x, router_logits, weights)

    def _is_compiled(self, rows: int, weights: MlpWeights) -> bool:
        return self.products.form(rows, weights.gate_up) is compiled


class QuantizedCpuOps(_RowOps, QuantizedReferenceOps):
    """The same for networks whose matrices may be packed: few rows are multiplied with them as they are.

    Args:
        dtype: That of the activations, whose kernels are compiled here.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(exact_rows=MOST_STEP_TOKENS)  # rounding activations buys nothing here
        library.layer_machine(dtype)
        library.packed_machine(dtype)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `QuantizedReferenceOps.product`."""
        return compiled(x, weight) if x.shape[0] <= _FEW else super().product(x, weight)

    def linear(self, x: Tensor, weight: Matrix) -> Tensor:
        """See `QuantizedReferenceOps.linear`."""
        if isinstance(weight, Tensor) or x.shape[0] > _FEW or not library.takes_packed(x, weight):
            return super().linear(x, weight)
        return library.multiply_packed(x, weight)

    def expert_linear(self, x: Tensor, experts: Matrix, expert: int, *, exact: bool) -> Tensor:
        """See `QuantizedReferenceOps.expert_linear`."""
        if isinstance(experts, Tensor):
            return super().expert_linear(x, experts, expert, exact=exact)
        return self.linear(x, experts[expert])


class InvariantCpuOps(_NormOps, InvariantOps):
    """`InvariantOps` whose products and norms are kernels: these give a row the same bits in any company.

    Args:
        dtype: That of the network, whose kernels are compiled here.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        library.layer_machine(dtype)
        library.machine(torch.float32)  # packed weights are multiplied in it

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `QuantizedReferenceOps.product`."""
        x = x.contiguous()
        return library.multiply(x, weight) if library.takes(x, weight) else super().product(x, weight)
