"""The shapes of Meta's published checkpoints, so that they can be planned for before they are downloaded.

Sizes from the `config.json` of meta-llama/Llama-4-Scout-17B-16E-Instruct, Llama-4-Maverick-17B-128E-Instruct and
Llama-Guard-4-12B, and from Meta's model cards; what does not bear on memory (rotary scaling, q/k norm) is as in
Scout's.
"""

from __future__ import annotations

from dataclasses import replace

from llama4_local.config.model import ModelConfig, RopeScaling, TextConfig, VisionConfig

_LAYERS = 48
_EVERY_FOURTH_WHOLE = tuple((layer + 1) % 4 != 0 for layer in range(_LAYERS))
_VISION = VisionConfig(
    hidden_size=1408, layers=34, heads=16, mlp_size=5632, image_size=336, patch_size=14, adapter_size=4096
)
_SCOUT = TextConfig(
    vocab_size=202_048,
    hidden_size=5120,
    heads=40,
    kv_heads=8,
    head_dim=128,
    expert_size=8192,
    dense_size=16_384,
    experts=16,
    rope_layers=_EVERY_FOURTH_WHOLE,
    moe_layers=(True,) * _LAYERS,
    chunk=8192,
    qk_norm=True,
    rope_scaling=RopeScaling(16.0, 1.0, 1.0, 8192),
    max_positions=10_485_760,
)
_MAVERICK = replace(
    _SCOUT,
    experts=128,
    moe_layers=tuple(layer % 2 == 1 for layer in range(_LAYERS)),
    qk_norm=False,
    rope_scaling=None,
    max_positions=1_048_576,
)
_GUARD_4 = replace(_SCOUT, experts=0, moe_layers=(False,) * _LAYERS, dense_size=8192, chunk=None, max_positions=131_072)


def _published(text: TextConfig) -> ModelConfig:
    return ModelConfig(
        text, _VISION, image_token_id=200_092, image_begin_id=200_080, image_end_id=200_081, dtype="bfloat16"
    )


PUBLISHED = {"scout": _published(_SCOUT), "maverick": _published(_MAVERICK), "guard-4": _published(_GUARD_4)}
