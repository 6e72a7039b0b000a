"""How a matrix kernel cuts its work up, and which cut serves which number of tokens.

One table for each kernel and weight format, from few tokens to many. `deterministic` serves every number of
tokens with one entry, so that a row's result never depends on how many others there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from llama4_local.weights.quantized import Int4Matrix

if TYPE_CHECKING:
    from llama4_local.weights.quantized import Matrix

STRIP = 8  # token tiles that share weights in the L2 cache at a time

Format = Literal["bf16", "fp8", "int4"]
Kernel = Literal["linear", "gate_up", "down"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One way to cut a matrix product.

    Args:
        rows: Outputs of a block, half of them gate and half up where both are computed together.
        tokens: Tokens of a block.
        depth: Inputs of a step; for int4 a whole number of groups.
        splits: Parts that the inputs are cut into, summed later in their order.
        warps: Warps of a program.
        stages: Loads in flight.
    """

    rows: int
    tokens: int
    depth: int
    splits: int
    warps: int
    stages: int

    @property
    def matmul(self) -> bool:
        """Whether Hopper's own matrix instructions do it: they take four warps and 16 tokens at least.

        Smaller cuts go to the instructions of older GPUs, which wait less for so little work.
        """
        return self.warps >= 4 and self.tokens >= 16


def format_of(weight: Matrix) -> Format:
    """Return a matrix's weight format."""
    if isinstance(weight, Tensor):
        return "bf16"
    return "int4" if isinstance(weight, Int4Matrix) else "fp8"


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """One way to cut attention of many tokens.

    Args:
        queries: Tokens of a block.
        keys: Keys of a step.
        warps: Warps of a program.
        stages: Loads in flight.
    """

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class DecodeTile:
    """One way to cut attention of single tokens.

    Args:
        splits: Parts that a sequence's keys are cut into.
        keys: Keys of a step.
        warps: Warps of a program.
        stages: Loads in flight.
    """

    splits: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class VectorTile:
    """One way to cut a matrix times a vector.

    Args:
        rows: Outputs of a program.
        depth: Inputs of a step; int4 takes the size of a group instead.
        splits: Parts that the inputs are cut into.
        warps: Warps of a program.
        stages: Loads in flight.
    """

    rows: int
    depth: int
    splits: int
    warps: int
    stages: int
