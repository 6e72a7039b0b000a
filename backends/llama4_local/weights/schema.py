"""The names and shapes that the network's tensors have in a checkpoint, written down once.

Loading, saving, checking and random initialisation all walk `weight_schema`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch

from llama4_local.weights.tree import (
    AffineTree,
    AttentionTree,
    LayerTree,
    MlpTree,
    MoeTree,
    VisionLayerTree,
    VisionTree,
    WeightTree,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from llama4_local.config.model import ModelConfig, TextConfig, VisionConfig
    from llama4_local.weights.tree import Weights


@dataclass(frozen=True, slots=True)
class TensorPart:
    """One tensor of a checkpoint: its published name and its shape."""

    name: str
    shape: tuple[int, ...]


TensorParts = tuple[TensorPart, ...]  # joined along their first axis they are one tensor of the tree


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a checkpoint with fused experts."""
    return {piece.name: piece.shape for pieces in weight_schema(config).leaves() for piece in pieces}


def single_names(fused: str, expert: int) -> list[str]:
    """Return the names that one expert's matrices have where experts are not fused."""
    prefix, kind = fused.rsplit(".", 1)
    parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
    return [f"{prefix}.{expert}.{part}.weight" for part in parts]


def single_parts(fused: TensorPart, expert: int) -> TensorParts:
    """Return one expert's matrices where experts are not fused, each [out, in]."""
    names, (_, inputs, outputs) = single_names(fused.name, expert), fused.shape
    return tuple(TensorPart(name, (outputs // len(names), inputs)) for name in names)


def matrix_shapes(text: TextConfig) -> list[tuple[int, int]]:
    """Return outputs and inputs of the decoder's matrices, those of which a step reads most first."""
    H, V = text.hidden_size, text.vocab_size
    sizes = [text.expert_size] if any(text.moe_layers) else []
    sizes += [] if all(text.moe_layers) else [text.dense_size]
    feed_forward = [shape for size in sizes for shape in ((2 * size, H), (H, size))]
    return [*feed_forward, (sum(text.qkv_rows), H), (H, text.heads * text.head_dim), (V, H), (text.experts, H)]


def matrix_numbers(text: TextConfig) -> int:
    """Return the numbers in the decoder's matrices together."""
    layers = (_layer(text, layer, "").map(_numbers) for layer in range(text.layers))
    sizes: list[int] = []
    for layer in layers:
        layer.map(sizes.append)
    return sum(sizes) + text.vocab_size * text.hidden_size


def _numbers(pieces: TensorParts) -> int:
    return sum(prod(piece.shape) for piece in pieces)


def build_weights(config: ModelConfig, get: Callable[[str], Tensor]) -> Weights:
    """Put a network together from published tensors; `get` is asked once for each name.

    Tensors that need gradients may be given: the joined ones pass gradients on.
    """

    def join(pieces: TensorParts) -> Tensor:
        parts = [get(piece.name) for piece in pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return weight_schema(config).map(join)


def named_tensors(config: ModelConfig, weights: Weights) -> dict[str, Tensor]:
    """Return a network's tensors under their published names, as views of its own."""
    by_name: dict[str, Tensor] = {}
    for pieces, tensor in zip(weight_schema(config).leaves(), weights.leaves(), strict=True):
        parts = tensor.split([piece.shape[0] for piece in pieces])
        by_name |= {piece.name: part for piece, part in zip(pieces, parts, strict=True)}
    return by_name


def random_weights(config: ModelConfig, seed: int, *, dtype: torch.dtype = torch.float32, std: float = 0.02) -> Weights:
    """Return a network with normal weights, norms of one and biases of zero, the same for a seed.

    Args:
        config: Its shape.
        seed: Decides the values, on any machine.
        dtype: Type of every tensor.
        std: Standard deviation of the weights.
    """
    source = torch.Generator().manual_seed(seed)

    def draw(pieces: TensorParts) -> Tensor:
        shape = (sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])
        if "norm" in pieces[0].name:
            return torch.full(shape, 1.0 if pieces[0].name.endswith("weight") else 0.0, dtype=dtype)
        if pieces[0].name.endswith("bias"):
            return torch.zeros(shape, dtype=dtype)
        return (torch.randn(shape, generator=source) * std).to(dtype)

    return weight_schema(config).map(draw)


def to_tensors(weights: Weights, *, dtype: torch.dtype | None = None, device: str | None = None) -> Weights:
    """Return the network in another type or on another device."""
    return weights.map(lambda tensor: tensor.to(dtype=dtype or tensor.dtype, device=device or tensor.device))


def weight_schema(config: ModelConfig) -> WeightTree[TensorParts]:
    """Return, for each tensor of the network, the checkpoint's tensors that make it up."""
    text = config.text
    prefix = "language_model." if config.vision else ""
    wide = (text.vocab_size, text.hidden_size)
    return WeightTree(
        embedding=_piece(f"{prefix}model.embed_tokens.weight", *wide),
        layers=tuple(_layer(text, layer, f"{prefix}model.layers.{layer}") for layer in range(text.layers)),
        norm=_piece(f"{prefix}model.norm.weight", text.hidden_size),
        head=_piece(f"{prefix}lm_head.weight", *wide),
        vision=_vision(config.vision, text.hidden_size) if config.vision else None,
    )


def _piece(name: str, *shape: int) -> TensorParts:
    return (TensorPart(name, shape),)


def _layer(text: TextConfig, layer: int, prefix: str) -> LayerTree[TensorParts]:
    moe = text.moe_layers[layer]
    return LayerTree(
        input_norm=_piece(f"{prefix}.input_layernorm.weight", text.hidden_size),
        attention=_attention(text, f"{prefix}.self_attn"),
        post_norm=_piece(f"{prefix}.post_attention_layernorm.weight", text.hidden_size),
        mlp=None if moe else _mlp(text.hidden_size, text.dense_size, f"{prefix}.feed_forward"),
        moe=_moe(text, f"{prefix}.feed_forward") if moe else None,
    )


def _attention(text: TextConfig, prefix: str) -> AttentionTree[TensorParts]:
    rows = zip("qkv", text.qkv_rows, strict=True)
    return AttentionTree(
        qkv=tuple(TensorPart(f"{prefix}.{name}_proj.weight", (count, text.hidden_size)) for name, count in rows),
        output=_piece(f"{prefix}.o_proj.weight", text.hidden_size, text.heads * text.head_dim),
    )


def _mlp(hidden: int, size: int, prefix: str) -> MlpTree[TensorParts]:
    return MlpTree(
        gate_up=tuple(TensorPart(f"{prefix}.{name}_proj.weight", (size, hidden)) for name in ("gate", "up")),
        down=_piece(f"{prefix}.down_proj.weight", hidden, size),
    )


def _moe(text: TextConfig, prefix: str) -> MoeTree[TensorParts]:
    E, H, I = text.experts, text.hidden_size, text.expert_size  # noqa: E741 - named as in the paper
    return MoeTree(
        router=_piece(f"{prefix}.router.weight", E, H),
        gate_up=_piece(f"{prefix}.experts.gate_up_proj", E, H, 2 * I),
        down=_piece(f"{prefix}.experts.down_proj", E, I, H),
        shared=_mlp(H, I, f"{prefix}.shared_expert"),
    )


def _vision(vision: VisionConfig, text_hidden: int) -> VisionTree[TensorParts]:
    hidden, adapter = vision.hidden_size, vision.adapter_size
    patch = vision.channels * vision.patch_size**2
    layers = (_vision_layer(vision, f"vision_model.model.layers.{layer}") for layer in range(vision.layers))
    return VisionTree(
        patch=_piece("vision_model.patch_embedding.linear.weight", hidden, patch),
        class_token=_piece("vision_model.class_embedding", hidden),
        positions=_piece("vision_model.positional_embedding_vlm", vision.patches + 1, hidden),
        pre_norm=_affine("vision_model.layernorm_pre", hidden),
        layers=tuple(layers),
        post_norm=_affine("vision_model.layernorm_post", hidden),
        adapter_fc1=_piece("vision_model.vision_adapter.mlp.fc1.weight", adapter, vision.mlp_size),
        adapter_fc2=_piece("vision_model.vision_adapter.mlp.fc2.weight", adapter, adapter),
        projector=_piece("multi_modal_projector.linear_1.weight", text_hidden, adapter),
    )


def _vision_layer(vision: VisionConfig, prefix: str) -> VisionLayerTree[TensorParts]:
    hidden, size = vision.hidden_size, vision.mlp_size
    q, k, v = (_affine(f"{prefix}.self_attn.{name}_proj", hidden, hidden) for name in "qkv")
    return VisionLayerTree(
        input_norm=_affine(f"{prefix}.input_layernorm", hidden),
        qkv=AffineTree(q.weight + k.weight + v.weight, q.bias + k.bias + v.bias),
        output=_affine(f"{prefix}.self_attn.o_proj", hidden, hidden),
        post_norm=_affine(f"{prefix}.post_attention_layernorm", hidden),
        fc1=_affine(f"{prefix}.mlp.fc1", size, hidden),
        fc2=_affine(f"{prefix}.mlp.fc2", hidden, size),
    )


def _affine(prefix: str, *shape: int) -> AffineTree[TensorParts]:
    return AffineTree(_piece(f"{prefix}.weight", *shape), _piece(f"{prefix}.bias", shape[0]))
