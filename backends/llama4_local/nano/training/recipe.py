"""How nano is built and trained: its shape, and the settings of the training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4_local.config.model import GenerationConfig, ModelConfig, TextConfig, VisionConfig
from llama4_local.nano.training.vocabulary import VOCABULARY
from llama4sdk.prompting import special_tokens as names

if TYPE_CHECKING:
    from collections.abc import Callable

TILE = 56  # pixels along the side of a tile: 16 patches, folded into 4 tokens
MAX_TILES = 4
_LAYERS = 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of a training run.

    Args:
        samples: Conversations per step.
        rows: Most tokens that go through the network at once.
        rate: Peak learning rate.
        warmup: Steps over which the rate rises.
        decay: Share of the run at its end over which the rate falls to zero.
        weight_decay: Decoupled weight decay of matrices.
        balance: Weight of the loss that spreads tokens over the experts.
        short_chunks: Share of passes with a shorter attention chunk, so that answers learn to reach over an edge.
        images: Images per step of the first stage, see `eyes.py`.
        dtype: What passes compute in, `bfloat16` or `float32`; CPUs without bf16 products take ten times as long in it.
    """

    samples: int = 64
    rows: int = 1800
    rate: float = 1.3e-3
    warmup: int = 40
    decay: float = 0.45
    weight_decay: float = 0.05
    balance: float = 0.01
    short_chunks: float = 0.05
    images: int = 64
    dtype: str = "bfloat16"

    @classmethod
    def on(cls, device: str) -> Recipe:
        """Return the settings for a device: a GPU takes many more samples in a step, and a higher rate for them."""
        if device == "cuda":
            return cls(samples=512, rows=80_000, rate=2e-3, warmup=100, images=256)
        return cls()


def nano_config(special: Callable[[str], int]) -> ModelConfig:
    """Return nano's shape.

    Args:
        special: Gives the id of a special token by its name.
    """
    text = TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        heads=4,
        kv_heads=2,
        head_dim=64,
        expert_size=128,
        dense_size=256,
        experts=4,
        rope_layers=tuple(layer % 4 != 3 for layer in range(_LAYERS)),
        moe_layers=(True,) * _LAYERS,
        chunk=512,
        qk_norm=True,
        rope_theta=10_000.0,
        max_positions=8192,
    )
    vision = VisionConfig(
        hidden_size=192, layers=4, heads=3, mlp_size=768, image_size=TILE, patch_size=14, adapter_size=256
    )
    return whole_config(text, vision, special)


def whole_config(text: TextConfig, vision: VisionConfig, special: Callable[[str], int]) -> ModelConfig:
    """Return the config of both networks, with the tokenizer's special tokens and nano's tiles."""
    return ModelConfig(
        text,
        vision,
        GenerationConfig(
            bos_token_id=special(names.BEGIN_OF_TEXT),
            eos_token_ids=tuple(special(name) for name in names.STOP_TOKENS),
        ),
        image_token_id=special(names.PATCH),
        image_begin_id=special(names.IMAGE_START),
        image_end_id=special(names.IMAGE_END),
        max_tiles=MAX_TILES,
        dtype="bfloat16",
    )
