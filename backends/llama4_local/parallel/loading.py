"""Loads one rank's share of a checkpoint: its slices of each tensor, in any weight format."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from llama4_local.checkpoint.assembler import Assembler
from llama4_local.checkpoint.cuts import check_int4_groups, own_tensors
from llama4_local.checkpoint.fingerprint import file_identity
from llama4_local.checkpoint.fp8 import activation_bound, check_fp8, check_kind, holds_int4, is_quantized
from llama4_local.checkpoint.loader import model_of, with_fp8_head
from llama4_local.checkpoint.network import read_network
from llama4_local.checkpoint.plain import check_checkpoint, stored_dtype
from llama4_local.checkpoint.quantized_cache import QuantizedCache
from llama4_local.checkpoint.quantizing import Packing
from llama4_local.checkpoint.reader import MappedFiles
from llama4_local.config.formats import DTYPE_BYTES
from llama4_local.config.share import Share, check_split
from llama4_local.ops.interface import select_ops
from llama4_local.parallel.sliced_reader import SlicedReader
from llama4_local.weights.schema import TensorPart, weight_schema
from llama4sdk.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.config.formats import HeadType, WeightFormat
    from llama4_local.config.model import ModelConfig
    from llama4_local.model.ranks import Ranks
    from llama4_local.model.transformer import Model
    from llama4_local.weights.quantized import Matrix
    from llama4_local.weights.schema import TensorParts
    from llama4_local.weights.tree import MoeTree, Weights, WeightTree


@dataclass(frozen=True, slots=True)
class ShardSource:
    """A checkpoint and the form in which it is loaded; see `load_model`."""

    folder: str
    dtype: str = "auto"
    quantize: WeightFormat | None = None
    head_dtype: HeadType = "auto"
    keep: bool = True
    verify: bool = False

    def __post_init__(self) -> None:
        if self.dtype != "auto" and self.dtype not in DTYPE_BYTES:
            raise InvalidRequest(f"dtype must be auto, {', '.join(DTYPE_BYTES)}, got {self.dtype!r}")


def load_share(
    source: ShardSource, share: Share, progress: Callable[[int, int], None] | None = None, device: str = "cpu"
) -> Weights:
    """Read, check and load a rank's share on its device.

    Products have PyTorch's own form: a form that each rank chose by measurement could route a token to another expert
    on one of them.

    Raises:
        CheckpointError: A folder that cannot be served; all problems are listed.
        InvalidRequest: A network that cannot be divided, or a weight format that the folder cannot be loaded in.
    """
    folder = Path(source.folder)
    network = read_network(folder)
    config, stored = network.config, network.tensors
    check_split(config, share, quantize=source.quantize)
    dtype = stored_dtype(stored) if source.dtype == "auto" else cast("torch.dtype", getattr(torch, source.dtype))
    reader = SlicedReader(own_tensors(stored, config.text.experts, share), share, progress)
    if is_quantized(stored):
        check_kind(source.quantize, int4=holds_int4(stored))
        check_int4_groups(stored, config, share)
        check_fp8(folder, config, stored)
        assembler = Assembler(reader, dtype, device, activation_bound(folder), _stacked(config, dtype, device))
        weights = assembler.network(share_schema(config, share))
    else:
        check_checkpoint(folder, config)
        weights = _plain(config, source, share, reader, dtype, progress, device)
    if reader.problems:
        raise CheckpointError(folder, reader.problems)
    return cast("Weights", weights if source.head_dtype == "auto" else with_fp8_head(weights))


def share_schema(config: ModelConfig, share: Share) -> WeightTree[TensorParts]:
    """Return the tensors of a rank's share; only rank 0 has the image encoder."""
    own = weight_schema(share.config(config))
    start, stop = share.vocabulary(config.text.vocab_size)
    head = (TensorPart(own.head[0].name, (stop - start, config.text.hidden_size)),)
    layers = tuple(replace(layer, moe=layer.moe and _own_experts(layer.moe, share)) for layer in own.layers)
    return replace(own, head=head, layers=layers, vision=own.vision if share.rank == 0 else None)


def rank_model(source: ShardSource, weights: Weights, ranks: Ranks, share: Share) -> Model:
    """Return the model that runs a rank's share."""
    return model_of(share.config(read_network(source.folder).config), weights, ranks=ranks)


def _stacked(config: ModelConfig, dtype: torch.dtype, device: str) -> bool:
    """Whether the device's functions take experts as the kernels do."""
    return select_ops(device, dtype=dtype, head_dim=config.text.head_dim).prepared_weights


def _own_experts(moe: MoeTree[TensorParts], share: Share) -> MoeTree[TensorParts]:
    """Leave a rank's experts, which it numbers from 0; the router has the scores of all."""

    def own(pieces: TensorParts) -> TensorParts:
        start, stop = share.experts(pieces[0].shape[0])
        return tuple(replace(piece, shape=(stop - start, *piece.shape[1:])) for piece in pieces)

    return replace(moe, gate_up=own(moe.gate_up), down=own(moe.down))


def _plain(
    config: ModelConfig,
    source: ShardSource,
    share: Share,
    reader: SlicedReader,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None,
    device: str,
) -> WeightTree[Matrix]:
    schema = share_schema(config, share)
    if source.quantize is not None:
        folder = Path(source.folder)
        files = (
            QuantizedCache.of(folder, source.quantize, file_identity(folder), share, verify=source.verify)
            if source.keep
            else None
        )
        return Packing(reader, source.quantize, files, dtype, device, progress).network(schema)
    with contextlib.ExitStack() as files:
        mapped = MappedFiles(files) if device == "cpu" else None
        stacked = _stacked(config, dtype, device)
        return Assembler(reader, dtype, device, stacked=stacked, mapped=mapped).network(schema)
