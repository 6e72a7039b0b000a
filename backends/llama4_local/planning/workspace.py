"""Bytes that a step works with, beside weights and cache: an upper estimate.

Each part counts the tensors that are alive at once at its worst moment. Images are encoded before a step, and tokens
are chosen after its last layer, so the largest of the three counts, and beside it what stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4_local.planning.cache import row_bytes

if TYPE_CHECKING:
    from llama4_local.config.model import ModelConfig, TextConfig, VisionConfig

_WIDE = 4  # bytes of fp32, in which norms, rotations and scores are computed
_SCORE = 64  # bytes for each score while tokens are chosen: 54 seen, with penalties, ranking and log-probabilities
_UNPACKING = 6  # bytes for each number while it is unpacked: bits of fp16 or nibbles, and values in fp32
_UNPACKED_AT_ONCE = 1 << 19  # numbers, see `reference.quantized`
_ANGLE = 8  # bytes of a cosine and a sine


@dataclass(frozen=True, slots=True)
class Workspace:
    """Bytes that a step works with.

    Args:
        layers: Activations of one layer for a whole step.
        gathered: Beside them copies of one layer's cache, which only the reference functions make.
        exchanged: Beside them the parts of one product that the ranks gather, and their sum in fp32.
        unpacked: Beside them the part of a packed matrix that is unpacked at once, and the activations that meet it,
            in fp32, which only the reference functions make.
        scores: Logits and what choosing tokens from them takes.
        images: Activations of the image encoder for one image.
        features: What stays of one image for each sequence.
        tables: Cosines and sines, which stay.
    """

    layers: int
    gathered: int
    exchanged: int
    unpacked: int
    scores: int
    images: int
    features: int
    tables: int

    @property
    def total(self) -> int:
        """Bytes at the worst moment."""
        running = self.layers + self.gathered + self.exchanged + self.unpacked
        return max(running, self.scores, self.images) + self.features + self.tables


@dataclass(frozen=True, slots=True)
class Step:
    """How large a step gets.

    Args:
        tokens: Most tokens in a step.
        sequences: Most sequences in a step.
        context: Most tokens that one of them attends to.
        itemsize: Bytes of an activation.
        reference: Whether the reference functions run.
        packed: Whether weights are packed.
        ranks: Number of ranks.
    """

    tokens: int
    sequences: int
    context: int
    itemsize: int
    reference: bool
    packed: bool = False
    ranks: int = 1


def plan_workspace(config: ModelConfig, step: Step) -> Workspace:
    """Return the most bytes that a step works with; of several ranks, those of one whose share `config` describes."""
    text = config.text
    tokens = max(step.sequences, min(step.tokens, step.sequences * step.context))
    return Workspace(
        layers=tokens * max(_attention_row(text, step.itemsize), _feed_forward_row(text, step.itemsize)),
        scores=step.sequences * text.vocab_size * _SCORE,
        images=_tiles(config) * _tile(config.vision, step.itemsize) if config.vision else 0,
        features=_tiles(config) * _features(config, step.itemsize) * step.sequences,
        gathered=_gathered(text, step, tokens) if step.reference else 0,
        exchanged=tokens * text.hidden_size * (step.ranks * step.itemsize + 2 * _WIDE) if step.ranks > 1 else 0,
        unpacked=_unpacked(text, step, tokens) if step.reference and step.packed else 0,
        tables=(text.chunk or tokens) * text.head_dim // 2 * _ANGLE,
    )


def _attention_row(text: TextConfig, item: int) -> int:
    """Residual, update and norm; joined projections, and three versions of queries and keys in fp32."""
    queries, keys, values = text.qkv_rows
    return 4 * text.hidden_size * item + (2 * queries + keys + values) * item + 3 * (queries + keys) * _WIDE


def _feed_forward_row(text: TextConfig, item: int) -> int:
    """Norms in fp32; input, sorted input, output and its sorted copy; gate and up, twice half of that, shared too."""
    size = _widest(text)
    return text.hidden_size * (8 * item + _WIDE) + 4 * size * item + text.experts * _WIDE


def _tiles(config: ModelConfig) -> int:
    """Return the tiles of the largest image, the overview of the whole among them."""
    return config.max_tiles + (config.max_tiles > 1)


def _tile(vision: VisionConfig, item: int) -> int:
    """Return the bytes that encoding one tile takes."""
    attention = vision.hidden_size * (12 * item + 6 * _WIDE)
    mlp = vision.hidden_size * 3 * item + vision.mlp_size * 2 * item
    pixels = vision.channels * vision.image_size**2 * (_WIDE + 2 * item)
    adapter = vision.patch_tokens * 2 * (vision.mlp_size + vision.adapter_size) * item
    return (vision.patches + 1) * max(attention, mlp) + pixels + adapter


def _features(config: ModelConfig, item: int) -> int:
    """Return the bytes of one tile's features."""
    return config.vision.patch_tokens * config.text.hidden_size * item if config.vision else 0


def _gathered(text: TextConfig, step: Step, tokens: int) -> int:
    """Two copies of keys and values, and the mask, of the layers that see most."""
    longest = step.context if text.global_layers else min(step.context, text.chunk or step.context)
    return 2 * step.sequences * longest * row_bytes(text, step.itemsize) + tokens * longest


def _unpacked(text: TextConfig, step: Step, tokens: int) -> int:
    """Part of the largest matrix; inputs widened, rounded and scaled; outputs in parts and joined."""
    numbers = min(text.hidden_size * max(2 * _widest(text), sum(text.qkv_rows)), _UNPACKED_AT_ONCE)
    inputs = max(text.hidden_size, _widest(text), text.heads * text.head_dim)
    return numbers * _UNPACKING + tokens * (2 * inputs * _WIDE + 2 * _widest(text) * step.itemsize)


def _widest(text: TextConfig) -> int:
    """Return the width of the widest feed-forward."""
    expert = text.expert_size if any(text.moe_layers) else 0
    return max(expert, 0 if all(text.moe_layers) else text.dense_size)
