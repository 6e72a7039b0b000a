"""Scores of every position of a prompt, through the cache and the step that serving uses."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from llama4_local.checkpoint.loader import load_model
from llama4_local.config.share import checked_share
from llama4_local.engine.prompt_logits import placeholder_of, prompt_logits
from llama4_local.model.vision import encode_tiles
from llama4_local.parallel.devices import devices_of
from llama4_local.parallel.starting import load_over_ranks
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from llama4_local.config.formats import CacheType, HeadType, WeightFormat
    from llama4_local.model.transformer import Model


class HasPixels(Protocol):
    """A cut image, as `llama4sdk.images.tile` returns it."""

    @property
    def pixels(self) -> np.ndarray:
        """[tiles, channels, size, size], fp32, -1 to 1."""
        ...


Pixels = np.ndarray | torch.Tensor


def score(
    path: str | Path,
    token_ids: Sequence[int],
    *,
    tiles: Pixels | HasPixels | Sequence[Pixels | HasPixels] | None = None,
    prefill_chunk: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    quantize: WeightFormat | None = None,
    cache_dtype: CacheType = "auto",
    tensor_parallel: int = 1,
    head_dtype: HeadType = "auto",
    expert_parallel: bool = False,
) -> Tensor:
    """Return the scores of the next token at every position of a prompt.

    Needs no tokenizer. The prompt runs in pieces through the paged cache, never across a chunk edge.

    Args:
        path: Checkpoint folder in Hugging Face form.
        token_ids: The prompt, image placeholders included.
        tiles: Pixels of all tiles, fp32 [tiles, channels, size, size] in −1 to 1; or one such array, or
            object with `.pixels`, for each image.
        prefill_chunk: Most tokens that one step takes; as many as fit the chunk when left out.
        device: Torch device; over ranks see `LocalBackend`.
        dtype: Type of the weights and the activations: `float32`, `bfloat16` or `float16`.
        quantize: `int4` or `fp8` to pack the layers' matrices; see `LocalBackend`.
        cache_dtype: `fp8` to keep keys and values in e4m3; see `LocalBackend`.
        tensor_parallel: Ranks; see `LocalBackend`.
        head_dtype: `fp8` to pack the output head; see `LocalBackend`.
        expert_parallel: Whether routed experts are whole on them; see `LocalBackend`.

    Returns:
        [tokens, vocab], fp32.

    Raises:
        CheckpointError: A folder that cannot be served.
        InvalidRequest: No tokens, ids outside the vocabulary, or tiles that do not match the placeholders.
    """
    pixels = _pixels(tiles)
    share = checked_share(tensor_parallel, expert_parallel)
    if share.size > 1:
        devices = devices_of(device, share.size)
        model = load_over_ranks(path, share, devices, dtype=dtype, quantize=quantize, head_dtype=head_dtype)
    else:
        model = load_model(path, device=device, dtype=dtype, quantize=quantize, head_dtype=head_dtype)
    try:
        return score_with(model, token_ids, pixels=pixels, prefill_chunk=prefill_chunk, cache_dtype=cache_dtype)
    finally:
        if model.ranks is not None:
            model.ranks.close()


@torch.no_grad()
def score_with(
    model: Model,
    token_ids: Sequence[int],
    *,
    pixels: Tensor | None = None,
    prefill_chunk: int | None = None,
    cache_dtype: CacheType = "auto",
) -> Tensor:
    """Do what `score` does with a model that is loaded already."""
    token_ids = _checked_ids(model, token_ids)
    if prefill_chunk is not None and prefill_chunk < 1:
        raise InvalidRequest(f"prefill_chunk must be at least 1, got {prefill_chunk}")
    features = _features(model, token_ids, pixels)
    return torch.cat(
        list(prompt_logits(model, token_ids, features=features, piece=prefill_chunk, cache_dtype=cache_dtype))
    )


def _checked_ids(model: Model, token_ids: Sequence[int]) -> list[int]:
    vocab = model.config.text.vocab_size
    try:
        ids = [operator.index(token) for token in token_ids]
    except TypeError as exc:
        raise InvalidRequest("token ids must be whole numbers") from exc
    if not ids:
        raise InvalidRequest("a prompt needs at least one token")
    if not all(0 <= token < vocab for token in ids):
        raise InvalidRequest(f"token ids must lie from 0 to {vocab - 1}")
    return ids


def _features(model: Model, token_ids: Sequence[int], pixels: Tensor | None) -> Tensor | None:
    placeholders = list(token_ids).count(placeholder_of(model))
    per_tile = model.config.vision.patch_tokens if model.config.vision else 0
    tiles = 0 if pixels is None else len(pixels)
    if placeholders != tiles * per_tile or (tiles and not per_tile):
        raise InvalidRequest(
            f"{tiles} tiles of {per_tile} tokens need {tiles * per_tile} placeholders, the prompt has {placeholders}"
        )
    return None if pixels is None or not tiles else encode_tiles(model, pixels).flatten(0, 1)


def _pixels(tiles: Pixels | HasPixels | Sequence[Pixels | HasPixels] | None) -> Tensor | None:
    if tiles is None:
        return None
    images = list(tiles) if isinstance(tiles, Sequence) else [tiles]
    arrays = [_tensor(image) for image in images]
    if any(array.ndim != 4 for array in arrays):
        raise InvalidRequest("tiles must be [tiles, channels, size, size], for each image")
    return torch.cat(arrays) if arrays else None


def _tensor(image: Pixels | HasPixels) -> Tensor:
    if isinstance(image, torch.Tensor):
        return image.float()
    array = image if isinstance(image, np.ndarray) else image.pixels
    return torch.from_numpy(np.array(array, dtype=np.float32))  # a copy: the array may be read-only
