"""How large a cache is made."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama4_local.cache.kv_cache import cache_bytes
from llama4_local.cache.sizing import cache_shape
from llama4_local.config.options import Options
from llama4_local.nano import CHECKPOINT
from llama4_local.serving.readiness import inspect_checkpoint
from llama4sdk.errors import InvalidRequest
from local.small_checkpoints import CHUNK, guard, scout


@given(
    memory=st.integers(0, 3_000_000),
    context=st.integers(1, 500),
    sequences=st.integers(1, 20),
    chunked=st.booleans(),
)
def test_a_cache_keeps_to_its_memory_and_one_sequence_can_always_cross_a_chunk(
    memory: int, context: int, sequences: int, *, chunked: bool
) -> None:
    text = (scout() if chunked else guard()).text
    try:
        shape = cache_shape(text, context=context, sequences=sequences, memory=memory, itemsize=4)
    except InvalidRequest:
        assert memory < 300_000
        return
    assert cache_bytes(text, shape, 4) <= memory
    assert shape.local_pages >= shape.local_pages_for(context)
    assert shape.pages_for(context) * sequences >= shape.global_pages >= 1


def test_with_memory_enough_every_sequence_has_its_whole_context() -> None:
    shape = cache_shape(scout().text, context=100, sequences=5, memory=10**9, itemsize=4)
    assert (shape.global_pages, shape.local_pages) == (5 * 13, 5)
    assert shape.page_size == CHUNK


def test_a_context_shorter_than_the_chunk_needs_no_full_chunk() -> None:
    text = replace(scout().text, chunk=512)
    shape = cache_shape(text, context=100, sequences=2, memory=10**9, itemsize=2)
    assert shape.local_pages == 2 * shape.pages_for(100)


def test_memory_for_not_even_one_page_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least"):
        cache_shape(scout().text, context=100, sequences=3, memory=1000, itemsize=4)


def test_the_cache_leaves_room_for_the_scores_of_all_sequences_that_run_at_once() -> None:
    rooms = [
        inspect_checkpoint(CHECKPOINT, Options(device="cpu", memory="300MB", max_sequences=count), None).cache_memory
        for count in (1, 64, 512, 100_000)
    ]
    scores = 2048 * 64  # bytes of a row's scores while tokens are sampled from them, in nano's vocabulary
    assert rooms[0] - rooms[2] > 0.5 * 512 * scores
    assert rooms == sorted(rooms, reverse=True)
    assert rooms[3] > 0  # one sequence always has its cache
