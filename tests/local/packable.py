"""A small checkpoint whose matrices can be packed in int4, and what a packed network takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from local.small_backends import chatting, saved_chat
from local.small_checkpoints import maverick, scout

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.quantized import Matrix
    from llama4_local.weights.tree import WeightTree


def packable(config: ModelConfig | None = None, stop_ids: tuple[int, ...] = ()) -> ModelConfig:
    """Scout's shape, or another, with inputs that groups of 32 or 64 divide; one that never stops by itself."""
    config = config or scout()
    return chatting(replace(config, text=replace(config.text, expert_size=64)), stop_ids)


def packable_maverick() -> ModelConfig:
    """The same of Maverick's shape: every second layer dense."""
    return packable(maverick())


def saved_packable(folder: Path, config: ModelConfig | None = None) -> Path:
    """Save such a checkpoint, in fp32, with a tokenizer."""
    return saved_chat(folder, config or packable())


def taken(weights: WeightTree[Matrix]) -> int:
    """Return the bytes of a network's tensors; what several matrices share counts once."""
    found: dict[int, int] = {}
    for leaf in weights.leaves():
        for tensor in parts(leaf):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def parts(leaf: Matrix) -> tuple[Tensor, ...]:
    """Return the tensors that a matrix is made of."""
    if isinstance(leaf, Tensor):
        return (leaf,)
    values = leaf.packed if hasattr(leaf, "packed") else leaf.values  # type: ignore[union-attr]
    return values, leaf.scales


def wide(leaf: Matrix) -> Tensor:
    """Return the numbers that a matrix stands for."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf.dequantize()


def same(one: WeightTree[Tensor], other: WeightTree[Tensor]) -> bool:
    """Whether two networks hold the same numbers."""
    return all(torch.equal(a, b) for a, b in zip(one.leaves(), other.leaves(), strict=True))
