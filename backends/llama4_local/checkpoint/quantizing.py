"""Loads a checkpoint of plain weights in packed form, layer by layer, and keeps the result for the next time.

At no time does more of the network lie in memory unpacked than one matrix, one expert of a mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llama4_local.checkpoint.fingerprint import file_identity
from llama4_local.checkpoint.plain import check_checkpoint
from llama4_local.checkpoint.quantized_cache import QuantizedCache
from llama4_local.checkpoint.reader import TensorReader, is_finite
from llama4_local.weights.quantize import packer, stack
from llama4_local.weights.schema import single_names, weight_schema
from llama4_local.weights.tree import AttentionTree, LayerTree, MlpTree, MoeTree, WeightTree
from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from llama4_local.checkpoint.quantized_cache import QuantizedLayer
    from llama4_local.config.formats import WeightFormat
    from llama4_local.config.model import ModelConfig
    from llama4_local.weights.quantized import Matrix, Packed
    from llama4_local.weights.schema import TensorPart, TensorParts


def load_quantizing(
    folder: str | Path,
    config: ModelConfig,
    kind: WeightFormat,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    keep: bool = True,
    verify: bool = False,
    progress: Callable[[int, int], None] | None = None,
    packing: Callable[[int, int], None] | None = None,
) -> WeightTree[Matrix]:
    """Load a network whose layers' matrices are packed; the rest is `dtype`.

    The first time, matrices are packed as they stream from disk and kept in a folder within the checkpoint's, or
    in the user's cache where that cannot be written to. Later they are read from there. Where neither can be
    written to, they are packed every time. Experts are laid out for the kernels: the shared one last.

    Args:
        folder: A checkpoint of plain weights in Hugging Face form.
        config: As `read_config` returns it for the same folder.
        kind: `int4` or `fp8`.
        dtype: Of router, norms, embeddings, head and vision.
        device: Where the tensors go.
        keep: Whether to keep the packed form.
        verify: Whether checksums of a kept form are compared even where its files are unchanged since the last time.
        progress: Called with the bytes of the checkpoint done so far and in all; whatever it raises ends the
            loading, and the next one goes on from there.
        packing: Called instead while a layer is packed that was not kept, or is not kept any more.

    Raises:
        CheckpointError: See `check_checkpoint`; or values that are not finite.
        InvalidRequest: A matrix whose inputs int4 groups do not divide.
    """
    folder = Path(folder)
    source = TensorReader(check_checkpoint(folder, config).tensors, progress)
    files = QuantizedCache.of(folder, kind, file_identity(folder), verify=verify) if keep else None
    weights = Packing(source, kind, files, dtype, device, packing or progress).network(weight_schema(config))
    if source.problems:
        raise CheckpointError(folder, source.problems)
    return weights


@dataclass(frozen=True, slots=True)
class Recipe:
    """The stored tensors of one quantized matrix.

    Args:
        pieces: Tensors whose rows, joined, make it; with experts they make the shared one.
        experts: The fused tensor of routed experts, [experts, in, out]; None for a single matrix.
    """

    pieces: TensorParts
    experts: TensorPart | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in], or [experts + 1, out, in]."""
        single = (sum(piece.shape[0] for piece in self.pieces), self.pieces[0].shape[1])
        return single if self.experts is None else (self.experts.shape[0] + 1, *single)


def recipes(layer: LayerTree[TensorParts]) -> dict[str, Recipe]:
    """Return what each packed matrix of a layer is made of, by its name in the layer's file."""
    by_name = {"qkv": Recipe(layer.attention.qkv), "output": Recipe(layer.attention.output)}
    if layer.mlp is not None:
        by_name |= {"gate_up": Recipe(layer.mlp.gate_up), "down": Recipe(layer.mlp.down)}
    if layer.moe is not None:
        shared = layer.moe.shared
        by_name["gate_up"] = Recipe(shared.gate_up, layer.moe.gate_up[0])
        by_name["down"] = Recipe(shared.down, layer.moe.down[0])
    return by_name


class Packing:
    """Packs a network layer by layer; see `load_quantizing`.

    Args:
        source: Reads the tensors.
        kind: `int4` or `fp8`.
        files: Keeps the packed form; None to pack every time.
        dtype: Of what is not packed.
        device: Where the tensors go.
        packing: Reports in place of the source's callable while a layer is packed.
    """

    def __init__(
        self,
        source: TensorReader,
        kind: WeightFormat,
        files: QuantizedCache | None,
        dtype: torch.dtype,
        device: str,
        packing: Callable[[int, int], None] | None,
    ) -> None:
        self._source = source
        self._packing = packing
        self._kind: WeightFormat = kind
        self._files = files
        self._dtype = dtype
        self._device = device

    def network(self, schema: WeightTree[TensorParts]) -> WeightTree[Matrix]:
        """Read and pack a whole network."""
        layers = tuple(self._layer(number, layer) for number, layer in enumerate(schema.layers))
        vision = schema.vision.map(self._plain) if schema.vision else None
        return WeightTree(
            self._plain(schema.embedding), layers, self._plain(schema.norm), self._plain(schema.head), vision
        )

    def _layer(self, number: int, schema: LayerTree[TensorParts]) -> LayerTree[Matrix]:
        recipes_by_name = recipes(schema)
        matrices = self._kept(number, recipes_by_name)
        if matrices is None:
            with self._source.reporting(self._packing):
                matrices = {name: self._pack(recipe) for name, recipe in recipes_by_name.items()}
            matrices = self._saved(number, recipes_by_name, matrices)
        placed = {name: matrix.to(self._device) for name, matrix in matrices.items()}
        return self._assemble(schema, placed)

    def _saved(self, number: int, recipes_by_name: dict[str, Recipe], matrices: QuantizedLayer) -> QuantizedLayer:
        """Keep a layer where that is possible, and return it as it is to be used."""
        if self._files is None or self._source.problems:
            return matrices
        saved = self._files.save(number, {name: matrix.to("cpu") for name, matrix in matrices.items()})
        if not saved or torch.device(self._device).type != "cpu":
            return matrices
        # What was saved is read back: mapped, it takes no memory that other files could not have.
        return self._files.load(number, _shapes(recipes_by_name)) or matrices

    def _kept(self, number: int, recipes_by_name: dict[str, Recipe]) -> QuantizedLayer | None:
        matrices = self._files.load(number, _shapes(recipes_by_name)) if self._files else None
        if matrices is not None:
            self._source.skip([name for recipe in recipes_by_name.values() for name in self._names(recipe)])
        return matrices

    def _pack(self, recipe: Recipe) -> Packed:
        """Pack a matrix where it is used: each is sent there as it is stored, one expert at a time."""
        pack, device = packer(self._kind), self._device
        if recipe.experts is None:
            return pack(self._rows(recipe.pieces).to(device))
        return stack((pack(matrix.to(device)) for matrix in self._experts(recipe, recipe.experts)), recipe.shape[0])

    def _experts(self, recipe: Recipe, experts: TensorPart) -> Iterator[Tensor]:
        for expert in range(experts.shape[0]):
            if experts.name in self._source.tensors:
                yield self._source.lend(experts.name, expert).t()
            else:
                yield torch.cat([self._source.lend(name) for name in single_names(experts.name, expert)])
        yield self._rows(recipe.pieces)

    def _names(self, recipe: Recipe) -> list[str]:
        names = [piece.name for piece in recipe.pieces]
        if recipe.experts is None:
            return names
        if recipe.experts.name in self._source.tensors:
            return [*names, recipe.experts.name]
        count = recipe.experts.shape[0]
        return [*names, *(name for e in range(count) for name in single_names(recipe.experts.name, e))]

    def _rows(self, pieces: TensorParts) -> Tensor:
        parts = [self._source.read(piece.name) for piece in pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _plain(self, pieces: TensorParts) -> Tensor:
        stored = self._rows(pieces)
        tensor = stored.to(dtype=self._dtype)
        if tensor.dtype != stored.dtype and is_finite(stored) and not is_finite(tensor):
            self._source.problems.append(f"{pieces[0].name} has values that are not finite numbers in {self._dtype}")
        return tensor.to(self._device)

    def _assemble(self, schema: LayerTree[TensorParts], matrices: dict[str, Packed]) -> LayerTree[Matrix]:
        return LayerTree(
            self._plain(schema.input_norm),
            AttentionTree(matrices["qkv"], matrices["output"]),
            self._plain(schema.post_norm),
            MlpTree(matrices["gate_up"], matrices["down"]) if schema.mlp else None,
            self._mixture(schema.moe, matrices) if schema.moe else None,
        )

    def _mixture(self, schema: MoeTree[TensorParts], matrices: dict[str, Packed]) -> MoeTree[Matrix]:
        gate_up, down = matrices["gate_up"], matrices["down"]
        return MoeTree(self._plain(schema.router), gate_up, down, MlpTree(gate_up[-1], down[-1]))


def _shapes(recipes_by_name: dict[str, Recipe]) -> dict[str, tuple[int, ...]]:
    return {name: recipe.shape for name, recipe in recipes_by_name.items()}
