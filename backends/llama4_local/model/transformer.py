"""The decoder: one step over a flat batch, and the layer that serving and training share.

hidden = forward(model, batch, cache)        # serving: keys and values live in the paged cache
scores = logits(model, hidden[batch.last_rows])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from llama4_local.config.invariant import BrokenInvariant
from llama4_local.model.expert_ranks import moe_over_ranks
from llama4_local.model.ranks import as_one
from llama4_local.model.rope import TextRope, text_rope, vision_rope
from llama4_local.ops.heads import HeadTransform
from llama4_local.ops.reference.functions import ReferenceOps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.config.model import ModelConfig, TextConfig
    from llama4_local.model.ranks import Ranks
    from llama4_local.ops.batch import Batch
    from llama4_local.ops.interface import Ops, Partial
    from llama4_local.weights.tree import LayerWeights, Weights


@dataclass(frozen=True, slots=True)
class Model:
    """A network ready to run: config, weights, ops, constant tables, and the ids that are never sampled.

    With `ranks`, it is one rank's share of a network that several compute together.
    """

    config: ModelConfig
    weights: Weights
    ops: Ops
    rope: TextRope
    vision_rope: Tensor | None
    excluded: Tensor | None = None
    ranks: Ranks | None = None

    @classmethod
    def create(cls, config: ModelConfig, weights: Weights, ops: Ops | None = None, ranks: Ranks | None = None) -> Model:
        """Return a model with its tables on the weights' device.

        Args:
            config: The shape of the network.
            weights: Its tensors.
            ops: The functions of its layers; the reference when left out.
            ranks: The other ranks, where config and weights are one rank's share.
        """
        device = weights.embedding.device
        vision = None if config.vision is None else vision_rope(config.vision, device)
        return cls(config, weights, ops or ReferenceOps(), text_rope(config.text, device), vision, ranks=ranks)

    def excluding(self, token_ids: Sequence[int]) -> Model:
        """Return the same model, which never samples these ids beside the image placeholder."""
        if not token_ids:
            return self
        return replace(self, excluded=torch.tensor(token_ids, device=self.device))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.weights.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights and of the hidden states."""
        return self.weights.embedding.dtype


class Attend(Protocol):
    """Attention of one layer; serving and training differ in it alone."""

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        """Return [tokens, heads·head_dim] for the joined projections of the same tokens."""
        ...


def forward(model: Model, batch: Batch, cache: KvCache) -> Tensor:
    """Run one step: write its keys and values to the cache and return the last hidden states.

    Returns:
        [tokens, hidden], normalised, ready for `logits`.
    """
    if model.ranks is None:
        return _forward(model, batch, cache)
    model.ranks.begin(batch, cache)
    with as_one(model.ranks):
        return _forward(model, batch, cache)


def _forward(model: Model, batch: Batch, cache: KvCache) -> Tensor:
    hidden = embed(model, batch.token_ids, batch.image_rows, batch.image_features)
    return forward_embedded(model, hidden, batch, cache)


def forward_embedded(model: Model, hidden: Tensor, batch: Batch, cache: KvCache) -> Tensor:
    """Return `forward` from the embeddings on, [tokens, hidden]; the batch's tokens and images are not read."""
    transforms = HeadTransforms.create(model, batch.positions)

    def attend(layer: int, qkv: Tensor) -> Tensor:
        own = cache.layers[layer]
        slots = batch.tables[own.pool].slots
        queries = model.ops.qkv_epilogue(qkv, transforms.of(layer), own, slots)
        return model.ops.attention(queries, own, batch)

    return run_layers(model, hidden, attend)


def logits(model: Model, hidden: Tensor) -> Tensor:
    """Return the scores of the next token, [rows, vocab], in fp32."""
    return uncast_logits(model, hidden).float()


def uncast_logits(model: Model, hidden: Tensor) -> Tensor:
    """Return `logits` in the dtype of the head's product."""
    scores = model.ops.head(hidden, model.weights.head)
    return scores if model.ranks is None else model.ranks.scores(hidden, scores, model.config.text.vocab_size)


def part_logits(model: Model, hidden: Tensor) -> Tensor:
    """Return this rank's part of `logits`, [rows, tokens of its part], in fp32."""
    return model.ops.head(hidden, model.weights.head).float()


def sampling_logits(model: Model, hidden: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the logits that tokens are sampled from, [rows, vocab], fp32: the image placeholder is excluded.

    A placeholder means something only where an image's features stand in for its embedding.

    Args:
        model: The network.
        hidden: [rows, hidden], the last hidden states.
        out: Where to write them, as a CUDA graph needs it.
    """
    scores = logits(model, hidden) if out is None else out.copy_(uncast_logits(model, hidden))
    if model.config.image_token_id is not None:
        scores[:, model.config.image_token_id].fill_(-torch.inf)
    if model.excluded is not None:
        scores.index_fill_(1, model.excluded, -torch.inf)
    return scores


def embed(model: Model, token_ids: Tensor, image_rows: Tensor, features: Tensor | None) -> Tensor:
    """Return [tokens, hidden] embeddings, with `features` in place of those at `image_rows`."""
    hidden = model.ops.embed(model.weights.embedding, token_ids)
    return hidden if features is None else hidden.index_copy(0, image_rows, features.to(hidden.dtype))


class Layer(Protocol):
    """Runs one layer: `run_layer`, or its compiled form."""

    def __call__(
        self, model: Model, index: int, layer: LayerWeights, residual: Tensor, update: Tensor | None, attend: Attend
    ) -> tuple[Tensor, Tensor]:
        """Return the residual, and the update that the next norm adds to it."""
        ...


def run_layers(model: Model, hidden: Tensor, attend: Attend, run: Layer | None = None) -> Tensor:
    """Run all layers and the final norm over [tokens, hidden].

    Args:
        model: The network.
        hidden: Embeddings.
        attend: Attention.
        run: Runs a layer in place of `run_layer`. Layers of one kind get the number of the first of them, so that
            it is compiled once for each kind.
    """
    eps = model.config.text.norm_eps
    residual, update = hidden, None
    for index, layer in enumerate(model.weights.layers):
        number = index if run is None else model.config.text.first_like(index)
        residual, update = (run or run_layer)(model, number, layer, residual, update, attend)
    if update is None:
        return model.ops.rms_norm(residual, model.weights.norm, eps)
    return model.ops.add_rms_norm(update, residual, model.weights.norm, eps)[0]


def run_layer(
    model: Model, index: int, layer: LayerWeights, residual: Tensor, update: Tensor | None, attend: Attend
) -> tuple[Tensor, Tensor]:
    """See `Layer`."""
    ops, eps = model.ops, model.config.text.norm_eps
    if update is None:
        normed = ops.rms_norm(residual, layer.input_norm, eps)
    else:
        normed, residual = ops.add_rms_norm(update, residual, layer.input_norm, eps)
    attended = attend(index, ops.linear(normed, layer.attention.qkv))
    update = _total(model, ops.linear(attended, layer.attention.output))
    normed, residual = ops.add_rms_norm(update, residual, layer.post_norm, eps)
    return residual, _feed_forward(model, normed, layer)


def _total(model: Model, part: Partial) -> Partial:
    """Return a product summed over the ranks that each have a part of its inputs."""
    return part if model.ranks is None else model.ops.sum_over_ranks(part, model.ranks.gather)


def _feed_forward(model: Model, x: Tensor, layer: LayerWeights) -> Tensor:
    if layer.moe is not None and model.ranks is not None and model.ranks.share.whole_experts:
        return moe_over_ranks(model.ops, model.ranks, x, layer.moe)
    if layer.moe is not None:
        return _total(model, model.ops.moe(x, layer.moe))
    if layer.mlp is not None:
        return _total(model, model.ops.mlp(x, layer.mlp))
    raise BrokenInvariant("a layer has neither a feed-forward nor experts")


@dataclass(frozen=True, slots=True)
class HeadTransforms:
    """The head transforms of one step: of RoPE layers and of NoPE layers."""

    rope_layers: tuple[bool, ...]
    rope: HeadTransform
    nope: HeadTransform

    @classmethod
    def create(cls, model: Model, positions: Tensor) -> HeadTransforms:
        """Look up a step's rotary angles and temperatures once, for all its layers."""
        text = model.config.text
        sizes = (text.heads, text.kv_heads, text.head_dim)
        rope = HeadTransform(*sizes, model.rope.rows(positions), text.norm_eps if text.qk_norm else None)
        nope = HeadTransform(*sizes, query_scale=temperature(text, positions))
        return cls(text.rope_layers, rope, nope)

    def of(self, layer: int) -> HeadTransform:
        """Return a layer's head transform."""
        return self.rope if self.rope_layers[layer] else self.nope


def temperature(text: TextConfig, positions: Tensor) -> Tensor | None:
    """Return the temperatures of NoPE layers' queries, [tokens], fp32, or None without tuning.

    1 + attn_scale · ln(⌊(position + 1) / floor_scale⌋ + 1), scalable softmax as Llama 4 uses it.
    """
    if not text.temperature_tuning:
        return None
    steps = torch.div(positions + 1, text.floor_scale, rounding_mode="floor")
    return (1 + text.attn_scale * torch.log1p(steps.double())).float()  # fp64: one result in code of any kind
