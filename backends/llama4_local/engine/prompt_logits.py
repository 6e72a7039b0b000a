"""Scores of the next token at every position of a prompt, piece by piece, through a cache of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.cache.kv_cache import KvCache, cache_dtype_of
from llama4_local.cache.page_table import CacheShape, PageAllocators, default_page_size
from llama4_local.model.transformer import forward, logits
from llama4_local.ops.batch import SequenceInput, build_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from llama4_local.config.formats import CacheType
    from llama4_local.model.transformer import Model


def prompt_logits(
    model: Model,
    token_ids: Sequence[int],
    *,
    features: Tensor | None = None,
    piece: int | None = None,
    cache_dtype: CacheType = "auto",
) -> Iterator[Tensor]:
    """Yield [tokens, vocab] for one piece of the prompt after the other, never across a chunk edge.

    Args:
        model: The network.
        token_ids: The prompt, at least one token, all in the vocabulary.
        features: Of its image placeholders, in order; None without any.
        piece: Most tokens of a piece; as many as fit the chunk when left out.
        cache_dtype: Type of keys and values; see `LocalBackend`.
    """
    shape = _cache_shape(model, len(token_ids))
    dtype = cache_dtype_of(cache_dtype, model.dtype)
    cache = KvCache.allocate(model.config.text, shape, dtype=dtype, device=model.device)
    sequence = PageAllocators(shape).sequence()
    while sequence.length < len(token_ids):
        start = sequence.length
        room = sequence.room_in_chunk() or len(token_ids)
        ids = token_ids[start : start + min(room, piece or room)]
        sequence.extend(len(ids))
        own, features = _split_features(model, ids, features)
        batch = build_batch(
            [SequenceInput(sequence, ids, own)], image_token_id=model.config.image_token_id, device=model.device
        )
        yield logits(model, forward(model, batch, cache))


def placeholder_of(model: Model) -> int:
    """Return the id of the image placeholder, -1 where there is none."""
    return -1 if model.config.image_token_id is None else model.config.image_token_id


def _split_features(model: Model, piece: Sequence[int], features: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if features is None:
        return None, None
    count = list(piece).count(placeholder_of(model))
    return features[:count], features[count:]


def _cache_shape(model: Model, tokens: int) -> CacheShape:
    chunk = model.config.text.chunk
    size = default_page_size(chunk)
    bare = CacheShape(0, 0, size, chunk)
    return CacheShape(bare.pages_for(tokens), bare.local_pages_for(tokens), size, chunk)
