"""The functions that layers call, and the selection between their two implementations.

`reference` is PyTorch: the CPU path and the oracle. Kernels offer the same functions with the same
signatures. The selection happens once, when a model is loaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch

from llama4_local.ops.cpu.functions import InvariantCpuOps
from llama4_local.ops.cpu.library import machine
from llama4_local.ops.reference.functions import ReferenceOps
from llama4_local.ops.reference.invariant import InvariantOps

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.batch import Batch
    from llama4_local.ops.filters import Filters
    from llama4_local.ops.heads import HeadTransform
    from llama4_local.ops.penalties import Penalties
    from llama4_local.weights.tree import MlpWeights, MoeWeights


# [tokens, size], or the parts of it, [parts, tokens, size]: of a split-K product in fp32, of several ranks in the
# activations' dtype. `add_rms_norm` and `qkv_epilogue` sum them while they read them, `whole` before; no other function
# takes parts.
Partial: TypeAlias = "Tensor"


class Ops(Protocol):
    """One layer's building blocks over flat rows; x is [tokens, hidden] throughout.

    All but `qkv_epilogue`, which writes to the cache, and `adjust` are free of side effects; the reference's are
    differentiable.
    """

    @property
    def prepared_weights(self) -> bool:
        """Whether they take weights in the layout of `kernels.layout.prepare`."""
        ...

    @property
    def asynchronous(self) -> bool:
        """Whether the host never waits for the device in them, so that steps run beside it and as CUDA graphs."""
        ...

    @property
    def host_lengths(self) -> bool:
        """Whether attention reads `PoolTable.contexts` on the host, beside the tensors."""
        ...

    def embed(self, table: Tensor, token_ids: Tensor) -> Tensor:
        """Return rows of the embedding `table` [vocab, hidden] for `token_ids` [tokens]."""
        ...

    def linear(self, x: Tensor, weight: Tensor) -> Partial:
        """Return x times the transpose of `weight` [out, in]: [tokens, out]."""
        ...

    def head(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the same product summed, [tokens, out], for logits."""
        ...

    def whole(self, x: Partial) -> Tensor:
        """Return x summed, [tokens, size], in the activations' dtype."""
        ...

    def sum_over_ranks(self, x: Partial, gather: Callable[[Tensor], Tensor]) -> Partial:
        """Return the sum of what all ranks have of a product, taken in fp32 in the order of the ranks, alike on each.

        Args:
            x: This rank's part.
            gather: Returns every rank's tensor of one shape, [ranks, *shape].
        """
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return x over its root mean square, taken in fp32 and cast back, times `weight` [hidden]."""
        ...

    def add_rms_norm(self, x: Partial, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Return the norm of x + residual, and that sum as the new residual."""
        ...

    def qkv_epilogue(self, qkv: Partial, plan: HeadTransform, layer: LayerCache, slots: Tensor) -> Tensor:
        """Rotate, normalise and scale the heads, and write keys and values to the cache.

        Args:
            qkv: [tokens, (heads + 2·kv_heads)·head_dim], the joined projections.
            plan: What to do to the heads.
            layer: Written at `slots`.
            slots: [tokens], int64, see `PoolTable.slots`.

        Returns:
            The queries, [tokens, heads, head_dim].
        """
        ...

    def attention(self, queries: Tensor, layer: LayerCache, batch: Batch) -> Tensor:
        """Attend from each token to its sequence's cached keys up to its own, softmax in fp32.

        Args:
            queries: [tokens, heads, head_dim].
            layer: Keys and values, those of this step included; its pool says which of the batch's
                tables holds: a chunk-local layer thereby sees its chunk and no more.
            batch: Layout of the rows and page tables.

        Returns:
            [tokens, heads·head_dim].
        """
        ...

    def mlp(self, x: Tensor, weights: MlpWeights) -> Partial:
        """Return the SwiGLU feed-forward of x: down(silu(gate(x)) · up(x))."""
        ...

    def moe(self, x: Tensor, weights: MoeWeights) -> Partial:
        """Return expert(x · sigmoid(score)) of each token's top-1 expert, plus shared_expert(x)."""
        ...

    def router_logits(self, x: Tensor, router: Tensor) -> Tensor:
        """Return the scores that `moe` chooses experts by, [tokens, E]."""
        ...

    def experts(self, x: Tensor, router_logits: Tensor, weights: MoeWeights) -> Partial:
        """Return what `moe` does with scores that were computed before.

        Args:
            x: At least one token.
            router_logits: [tokens, E], of the experts that `weights` has; the router itself is not read.
            weights: Some or all of a layer's experts.
        """
        ...

    def adjust(self, logits: Tensor, penalties: Penalties | None, allowed: Tensor | None) -> None:
        """Take penalties off logits and set those of excluded tokens to -inf, in place.

        Args:
            logits: [rows, vocab], fp32.
            penalties: Of the same rows; None for none.
            allowed: [rows, ⌈vocab / 32⌉], int32: bit t % 32 of word t // 32 allows token t; None allows all.
        """
        ...

    def sample(self, logits: Tensor, filters: Filters, seeds: Tensor, steps: Tensor) -> Tensor:
        """Return the next token of each row, [rows], int64; -1 where a row is unusable.

        Args:
            logits: [rows, vocab], fp32.
            filters: Temperature and truncation of each row; a temperature of 0 takes the argmax.
            seeds: [rows], int64.
            steps: [rows], int64: tokens that the row has sampled before.
        """
        ...


_HOPPER = 9  # the major compute capability that the kernels are made for


def select_ops(
    device: str | torch.device, *, dtype: torch.dtype = torch.bfloat16, head_dim: int = 128, deterministic: bool = False
) -> Ops:
    """Return the functions for a device: kernels on Hopper GPUs in bf16, else the reference, which runs anywhere.

    Args:
        device: Where the weights are.
        dtype: Their type where they are not packed.
        head_dim: Width of an attention head; the kernels take powers of two from 16 on.
        deterministic: One cut of each kernel for any number of tokens; elsewhere `InvariantOps`, on CPUs with
            compiled products where there are any.
    """
    fits = dtype == torch.bfloat16 and head_dim >= 16 and head_dim & (head_dim - 1) == 0
    if not fits or not is_hopper(device):
        if not deterministic:
            return ReferenceOps()
        compiled = torch.device(device).type == "cpu" and machine(dtype) is not None
        return InvariantCpuOps(dtype) if compiled else InvariantOps()
    from llama4_local.ops.kernels.arrivals import arrival_counters
    from llama4_local.ops.kernels.functions import KernelOps
    from llama4_local.ops.kernels.tile_table import TileTable

    return KernelOps(TileTable(deterministic), arrival_counters(device))


def is_hopper(device: str | torch.device) -> bool:
    """Return whether a device is a Hopper GPU of NVIDIA's for which Triton is installed."""
    there = torch.device(device).type == "cuda" and torch.cuda.is_available()
    if not there or torch.version.hip or find_spec("triton") is None:  # AMD's GPUs call themselves cuda too
        return False
    return torch.cuda.get_device_capability(device)[0] == _HOPPER
