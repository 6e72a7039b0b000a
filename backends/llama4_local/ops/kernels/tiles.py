"""Tile configs: the block sizes, splits, warps and pipeline stages of each family of kernels.

They are named tuples, since a kernel takes its tile config as one compile-time argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor

from llama4_local.weights.quantized import Int4Matrix

if TYPE_CHECKING:
    from llama4_local.weights.quantized import Matrix

Format = Literal["bf16", "fp8", "int4"]
Kernel = Literal["linear", "gate_up", "down"]
Trial = Literal["merge", "share"]  # forms of decode attention that no GPU has timed yet


class Tile(NamedTuple):
    """Tile config of a matrix product.

    Args:
        rows: Outputs of a block; in `gate_up` half of them are gate and half up.
        tokens: Tokens of a block.
        depth: Inputs of a step; for int4 a whole number of groups.
        splits: Parts of the inputs (split-K), summed later in their order.
        warps: Warps per program.
        stages: Depth of the software pipeline.
    """

    rows: int
    tokens: int
    depth: int
    splits: int
    warps: int
    stages: int

    @property
    def matmul(self) -> bool:
        """Whether the product runs on HGMMA, which takes at least four warps and 16 tokens.

        Smaller tiles run on HMMA, the instructions of older GPUs, whose latency is lower for so little work.
        """
        return self.warps >= 4 and self.tokens >= 16


class VectorTile(NamedTuple):
    """Tile config of a matrix-vector product.

    Args:
        rows: Outputs of a program.
        depth: Inputs of a step; int4 takes the size of a group instead.
        splits: Parts of the inputs (split-K).
        warps: Warps per program.
        stages: Depth of the software pipeline.
    """

    rows: int
    depth: int
    splits: int
    warps: int
    stages: int


class AttentionTile(NamedTuple):
    """Tile config of prefill attention.

    Args:
        queries: Query tokens of a block.
        keys: Keys of a step.
        warps: Warps per program.
        stages: Depth of the software pipeline.
    """

    queries: int
    keys: int
    warps: int
    stages: int


class DecodeTile(NamedTuple):
    """Tile config of decode attention.

    Args:
        splits: Most parts of a sequence's keys (split-KV).
        keys: Keys of a step.
        warps: Warps per program.
        stages: Depth of the software pipeline.
        least: Fewest steps of a part, where the sequence has so many; a short context has fewer parts.
        merges: Whether the last part to be ready merges all of them, which otherwise takes a second launch.
        programs: Programs that share the steps of all sequences equally, at least `least` each, in place of splits and
            of `merges`; 0 where each sequence is split by itself.
    """

    splits: int
    keys: int
    warps: int
    stages: int
    least: int = 1
    merges: bool = False
    programs: int = 0


def format_of(weight: Matrix) -> Format:
    """Return a matrix's weight format."""
    if isinstance(weight, Tensor):
        return "bf16"
    return "int4" if isinstance(weight, Int4Matrix) else "fp8"
