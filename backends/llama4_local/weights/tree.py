"""The network's tensors as a tree of frozen values.

A tree is generic in what hangs on it: tensors (`Weights`), or the pieces of a checkpoint that make up
each tensor (see `weight_names.py`).

Projections that read the same input lie in one tensor (`qkv`, `gate_up`): one product instead of three.
Plain matrices are [out, in] as `linear` wants them; experts are [E, in, out] as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", covariant=True)  # trees are never changed, so one of tensors is one of matrices
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class AttentionTree(Generic[T]):
    """Self-attention of a decoder layer."""

    qkv: T  # [(heads + 2·kv_heads)·head_dim, hidden]
    output: T  # [hidden, heads·head_dim]

    def map(self, change: Callable[[T], U]) -> AttentionTree[U]:
        """Return the same tree with `change` applied to every leaf, in a fixed order."""
        return AttentionTree(change(self.qkv), change(self.output))


@dataclass(frozen=True, slots=True)
class MlpTree(Generic[T]):
    """SwiGLU feed-forward."""

    gate_up: T  # [2·I, hidden], gate first
    down: T  # [hidden, I]

    def map(self, change: Callable[[T], U]) -> MlpTree[U]:
        """Return the same tree with `change` applied to every leaf, in a fixed order."""
        return MlpTree(change(self.gate_up), change(self.down))


@dataclass(frozen=True, slots=True)
class MoeTree(Generic[T]):
    """Mixture of experts with one shared expert."""

    router: T  # [E, hidden]
    gate_up: T  # [E, hidden, 2·I], gate first
    down: T  # [E, I, hidden]
    shared: MlpTree[T]

    def map(self, change: Callable[[T], U]) -> MoeTree[U]:
        """Return the same tree with `change` applied to every leaf, in a fixed order."""
        return MoeTree(change(self.router), change(self.gate_up), change(self.down), self.shared.map(change))


@dataclass(frozen=True, slots=True)
class LayerTree(Generic[T]):
    """One decoder layer; exactly one of `mlp` and `moe` is there."""

    input_norm: T  # [hidden]
    attention: AttentionTree[T]
    post_norm: T  # [hidden]
    mlp: MlpTree[T] | None
    moe: MoeTree[T] | None

    def map(self, change: Callable[[T], U]) -> LayerTree[U]:
        """Return the same tree with `change` applied to every leaf, in a fixed order."""
        return LayerTree(
            change(self.input_norm),
            self.attention.map(change),
            change(self.post_norm),
            self.mlp.map(change) if self.mlp else None,
            self.moe.map(change) if self.moe else None,
        )


@dataclass(frozen=True, slots=True)
class AffineTree(Generic[T]):
    """A linear map, or a layer norm, with its bias."""

    weight: T
    bias: T

    def map(self, change: Callable[[T], U]) -> AffineTree[U]:
        """Return the same tree with `change` applied to every leaf, in a fixed order."""
        return AffineTree(change(self.weight), change(self.bias))


@dataclass(frozen=True, slots=True)
class VisionLayerTree(Generic[T]):
    """One layer of the image encoder."""

    input_norm: AffineTree[T]  # [hidden]
    qkv: AffineTree[T]  # [3·hidden, hidden]
    output: AffineTree[T]  # [hidden, hidden]
    post_norm: AffineTree[T]  # [hidden]
    fc1: AffineTree[T]  # [mlp, hidden]
    fc2: AffineTree[T]  # [hidden, mlp]

    def map(self, change: Callable[[T], U]) -> VisionLayerTree[U]:
        """Return the same tree with `change` applied to every leaf, in a fixed order."""
        return VisionLayerTree(
            self.input_norm.map(change),
            self.qkv.map(change),
            self.output.map(change),
            self.post_norm.map(change),
            self.fc1.map(change),
            self.fc2.map(change),
        )


@dataclass(frozen=True, slots=True)
class VisionTree(Generic[T]):
    """The image encoder with adapter and projector."""

    patch: T  # [hidden, channels·patch·patch]
    class_token: T  # [hidden]
    positions: T  # [patches + 1, hidden], the class token's last
    pre_norm: AffineTree[T]
    layers: tuple[VisionLayerTree[T], ...]
    post_norm: AffineTree[T]
    adapter_fc1: T  # [adapter, hidden·shuffle²]
    adapter_fc2: T  # [adapter, adapter]
    projector: T  # [text hidden, adapter]

    def map(self, change: Callable[[T], U]) -> VisionTree[U]:
        """Return the same tree with `change` applied to every leaf, in a fixed order."""
        return VisionTree(
            change(self.patch),
            change(self.class_token),
            change(self.positions),
            self.pre_norm.map(change),
            tuple(layer.map(change) for layer in self.layers),
            self.post_norm.map(change),
            change(self.adapter_fc1),
            change(self.adapter_fc2),
            change(self.projector),
        )


@dataclass(frozen=True, slots=True)
class WeightTree(Generic[T]):
    """A whole network."""

    embedding: T  # [vocab, hidden]
    layers: tuple[LayerTree[T], ...]
    norm: T  # [hidden]
    head: T  # [vocab, hidden]
    vision: VisionTree[T] | None

    def map(self, change: Callable[[T], U]) -> WeightTree[U]:
        """Return the same tree with `change` applied to every leaf, in a fixed order."""
        return WeightTree(
            change(self.embedding),
            tuple(layer.map(change) for layer in self.layers),
            change(self.norm),
            change(self.head),
            self.vision.map(change) if self.vision else None,
        )

    def leaves(self) -> tuple[T, ...]:
        """Return what hangs on the tree, in the order of `map`: a trainer's parameters, say."""
        collected: list[T] = []
        self.map(collected.append)
        return tuple(collected)


AttentionWeights = AttentionTree[Tensor]
MlpWeights = MlpTree[Tensor]
MoeWeights = MoeTree[Tensor]
LayerWeights = LayerTree[Tensor]
VisionWeights = VisionTree[Tensor]
Weights = WeightTree[Tensor]
