"""How nano-guard is built and trained: its shape, and the settings of the training run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.config.model import TextConfig, VisionConfig
from llama4_local.nano.training.guard.vocabulary import VOCABULARY
from llama4_local.nano.training.recipe import TILE, Recipe, whole_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.config.model import ModelConfig

_LAYERS = 4
RECIPE = Recipe(samples=64, rows=3000, rate=2e-3, warmup=30, decay=0.5, balance=0.0, short_chunks=0.0, dtype="float32")


def guard_config(special: Callable[[str], int]) -> ModelConfig:
    """Return nano-guard's shape, that of Llama Guard 4: dense, without attention chunks, with an image encoder.

    Args:
        special: Gives the id of a special token by its name.
    """
    text = TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        heads=2,
        kv_heads=1,
        head_dim=64,
        expert_size=128,
        dense_size=256,
        experts=0,
        rope_layers=tuple(layer % 4 != 3 for layer in range(_LAYERS)),
        moe_layers=(False,) * _LAYERS,
        chunk=None,
        qk_norm=True,
        rope_theta=10_000.0,
        max_positions=1024,
    )
    vision = VisionConfig(
        hidden_size=64, layers=2, heads=2, mlp_size=256, image_size=TILE, patch_size=14, adapter_size=128
    )
    return whole_config(text, vision, special)
