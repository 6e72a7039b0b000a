"""Bytes of a network's weights: all of them, and those that one step reads.

Counted from the config alone, since planning must not need torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from llama4_local.config.share import WHOLE
from llama4_local.planning.routed import touched_experts

if TYPE_CHECKING:
    from llama4_local.config.formats import Storage
    from llama4_local.config.model import ModelConfig, TextConfig, VisionConfig
    from llama4_local.config.share import Share


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of a network's weights by part.

    Args:
        attention: Projections of all layers.
        experts: Routed experts of all layers.
        shared: Shared experts of all layers.
        dense: Dense feed-forwards of all layers.
        routers: Routers and norms.
        embedding: The embedding.
        head: The output head.
        vision: Image encoder, adapter and projector.
    """

    attention: int
    experts: int
    shared: int
    dense: int
    routers: int
    embedding: int
    head: int
    vision: int

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(getattr(self, part.name) for part in fields(self))


def weight_bytes(config: ModelConfig, storage: Storage, share: Share = WHOLE) -> WeightBytes:
    """Return the bytes of a network's weights in some formats, or of one rank's share of them.

    Raises:
        InvalidRequest: A matrix cannot be packed.
    """
    text, item = share.config(config).text, storage.itemsize
    first, last = share.vocabulary(text.vocab_size)
    start, stop = share.experts(text.experts)
    mixtures = sum(text.moe_layers)
    expert = _feed_forward(text, text.expert_size, storage) if mixtures else 0
    dense = _feed_forward(text, text.dense_size, storage) if mixtures < text.layers else 0
    norms = (2 * text.layers + 1) * text.hidden_size
    return WeightBytes(
        attention=text.layers * _attention(text, storage),
        experts=mixtures * (stop - start) * expert,
        shared=mixtures * expert,
        dense=(text.layers - mixtures) * dense,
        routers=(norms + mixtures * text.experts * text.hidden_size) * item,
        embedding=text.vocab_size * text.hidden_size * item,
        head=storage.head_bytes(last - first, text.hidden_size),
        vision=_vision(config.vision, text.hidden_size) * item if config.vision and share.rank == 0 else 0,
    )


def step_weight_bytes(config: ModelConfig, storage: Storage, batch: int) -> float:
    """Return the bytes of weights that a step with one token for each of `batch` sequences reads.

    Every matrix once; of E routed experts the E · (1 - (1 - 1/E)^batch) that some token is expected to go to when
    all are equally likely.
    """
    return touched_bytes(weight_bytes(config, storage), config.text.experts, batch)


def touched_bytes(own: WeightBytes, experts: int, batch: int, share: Share = WHOLE) -> float:
    """Return of a network's weights, or a rank's, those that such a step reads; see `step_weight_bytes`.

    Of ranks with whole experts, those of the rank that reads most.
    """
    start, stop = share.experts(experts)
    touched = touched_experts(experts, batch, share.size if share.whole_experts else 1)
    always = own.attention + own.shared + own.dense + own.routers + own.head
    return always + own.experts * touched / max(1, stop - start)


def _attention(text: TextConfig, storage: Storage) -> int:
    project = storage.attention_bytes(sum(text.qkv_rows), text.hidden_size)
    return project + storage.attention_bytes(text.hidden_size, text.heads * text.head_dim)


def _feed_forward(text: TextConfig, size: int, storage: Storage) -> int:
    gate_up = storage.feed_forward_bytes(2 * size, text.hidden_size)
    return gate_up + storage.feed_forward_bytes(text.hidden_size, size)


def _vision(vision: VisionConfig, text_hidden: int) -> int:
    """Count the parameters of the image encoder."""
    hidden, size, adapter = vision.hidden_size, vision.mlp_size, vision.adapter_size
    norm = 2 * hidden
    attention = 4 * (hidden * hidden + hidden)
    mlp = 2 * hidden * size + size + hidden
    patches = hidden * vision.channels * vision.patch_size**2
    positions = (vision.patches + 2) * hidden  # the class token and its position among them
    adapters = adapter * size + adapter * adapter + text_hidden * adapter
    return vision.layers * (2 * norm + attention + mlp) + 2 * norm + patches + positions + adapters
