"""Small random checkpoints that have the shape of Scout, Maverick and Guard."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.model import GenerationConfig, ModelConfig, RopeScaling, TextConfig, VisionConfig
from llama4_local.weights.schema import random_weights

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.weights.tree import Weights

VOCABULARY = 320
PATCH = 300  # id of the image placeholder
CHUNK = 8


def scout() -> ModelConfig:
    """Every layer a mixture of experts, q/k norm, stretched RoPE, five query heads per key head."""
    return _multimodal(
        TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            heads=10,
            kv_heads=2,
            head_dim=16,
            expert_size=48,
            dense_size=96,
            experts=4,
            rope_layers=_every_fourth_without_rope(8),
            moe_layers=(True,) * 8,
            chunk=CHUNK,
            qk_norm=True,
            rope_scaling=RopeScaling(4.0, 1.0, 4.0, 32),
            floor_scale=8,
            max_positions=512,
        )
    )


def maverick() -> ModelConfig:
    """Every second layer a mixture of experts, no q/k norm, plain RoPE."""
    text = replace(scout().text, moe_layers=(False, True) * 4, qk_norm=False, rope_scaling=None, experts=8)
    return _multimodal(text)


def guard() -> ModelConfig:
    """Dense, no chunks."""
    text = replace(scout().text, moe_layers=(False,) * 8, experts=0, chunk=None, rope_scaling=None)
    return _multimodal(text)


def text_only() -> ModelConfig:
    """Scout's decoder alone."""
    return ModelConfig(scout().text, generation=GenerationConfig(eos_token_ids=(3,)))


def biting_weights(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    """Return weights large enough that every part of the network moves the result."""
    source = torch.Generator().manual_seed(seed + 1)
    weights = random_weights(config, seed, std=0.1)
    return weights.map(lambda t: (t + 0.1 * torch.randn(t.shape, generator=source)).to(dtype))


def saved(folder: Path, config: ModelConfig, seed: int = 0) -> Path:
    """Save a checkpoint with such weights and return its folder."""
    save_checkpoint(folder, config, biting_weights(config, seed))
    return folder


def tile_pixels(config: ModelConfig, tiles: int, seed: int = 0) -> torch.Tensor:
    """Return random tiles, [tiles, 3, size, size] in -1 to 1."""
    assert config.vision
    size = config.vision.image_size
    return torch.rand(tiles, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def prompt(config: ModelConfig, tokens: int, tiles: int = 0, seed: int = 0) -> list[int]:
    """Return `tokens` random ids that are no placeholders, with those of `tiles` tiles after the fifth."""
    ids = torch.randint(0, PATCH, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    patches = config.vision.patch_tokens * tiles if config.vision else 0
    return ids[:5] + [PATCH] * patches + ids[5:]


def _every_fourth_without_rope(layers: int) -> tuple[bool, ...]:
    return tuple((layer + 1) % 4 != 0 for layer in range(layers))


def _multimodal(text: TextConfig) -> ModelConfig:
    vision = VisionConfig(hidden_size=32, layers=2, heads=4, mlp_size=128, image_size=16, patch_size=4, adapter_size=40)
    stops = GenerationConfig(bos_token_id=0, eos_token_ids=(1, 2), temperature=0.6, top_p=0.9)
    return ModelConfig(text, vision, stops, PATCH, PATCH + 1, PATCH + 2, dtype="float32")
