"""Small checkpoints whose heads and widths 2 and 4 ranks divide."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from local.small_checkpoints import guard, maverick, scout

if TYPE_CHECKING:
    from llama4_local.config.model import ModelConfig


def divisible(config: ModelConfig) -> ModelConfig:
    """Return a shape with four key/value heads, every quarter of whose inputs holds whole int4 groups."""
    text = replace(config.text, heads=32, kv_heads=4, expert_size=512, dense_size=512)
    return replace(config, text=text)


SHAPES = {"scout": divisible(scout()), "maverick": divisible(maverick()), "guard": divisible(guard())}
