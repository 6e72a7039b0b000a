"""The second level of the prefix cache: pages that were evicted come back from host memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4_local import LocalBackend
from llama4_local.cache.host_pages import HostPages
from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import CacheShape, PageAllocators
from llama4_local.cache.prefix_cache import PageHashes, PrefixCache
from llama4_local.engine.engine import EngineLimits
from llama4sdk.errors import InvalidRequest
from local.small_backends import GREEDY, SmallEngine, chatting, check_at_rest, saved_chat
from local.small_checkpoints import CHUNK, guard, prompt, scout

PAGE = 4
AMPLE = 1 << 24
SHORT = replace(GREEDY, max_tokens=3)


def small(*, host_cache: int = AMPLE, dtype: torch.dtype | None = None, chunks: bool = True) -> SmallEngine:
    """An engine whose cache holds one long prompt, not two."""
    return SmallEngine(
        chatting(stop_ids=()) if chunks else chatting(guard(), stop_ids=()),
        global_pages=5 * CHUNK // PAGE,
        local_pages=3 * CHUNK // PAGE,
        page_size=PAGE,
        limits=EngineLimits(step_tokens=16, host_cache=host_cache),
        cache_dtype=dtype,
    )


def cached_tokens(engine: SmallEngine, token_ids: list[int]) -> tuple[str, int]:
    reader = engine.answer(token_ids, SHORT)
    assert reader.done is not None
    assert reader.done.usage is not None
    return reader.text, reader.done.usage.cached_tokens


@pytest.mark.parametrize("dtype", [None, torch.float8_e4m3fn], ids=["activations' dtype", "fp8"])
def test_an_evicted_prompt_comes_back_up_to_its_last_chunk_edge(dtype: torch.dtype | None) -> None:
    engine = small(dtype=dtype)
    first, second = (prompt(engine.config, 3 * CHUNK + 5, seed=seed) for seed in (1, 2))
    text, cached = cached_tokens(engine, first)
    assert cached == 0
    cached_tokens(engine, second)
    assert cached_tokens(engine, first) == (text, 3 * CHUNK)
    check_at_rest(engine)


def test_without_chunks_every_full_page_comes_back() -> None:
    engine = small(chunks=False)
    first, second = (prompt(engine.config, 3 * CHUNK + 5, seed=seed) for seed in (1, 2))
    text, _ = cached_tokens(engine, first)
    cached_tokens(engine, second)
    again, cached = cached_tokens(engine, first)
    assert again == text
    assert cached == (3 * CHUNK + 4) // PAGE * PAGE


def test_without_a_second_level_an_evicted_prompt_is_computed_again() -> None:
    engine = small(host_cache=0)
    first, second = (prompt(engine.config, 3 * CHUNK + 5, seed=seed) for seed in (1, 2))
    text, _ = cached_tokens(engine, first)
    cached_tokens(engine, second)
    again, cached = cached_tokens(engine, first)
    assert again == text
    assert cached < 3 * CHUNK


@settings(deadline=None, max_examples=15)
@given(
    asked=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4 * CHUNK)), min_size=2, max_size=8),
    host_pages=st.integers(1, 40),
)
def test_answers_are_those_of_an_engine_without_caches(asked: list[tuple[int, int]], host_pages: int) -> None:
    page = small(host_cache=AMPLE)
    bytes_of_page = 2 * len(page.config.text.global_layers) * PAGE * page.config.text.kv_heads
    bytes_of_page *= page.config.text.head_dim * 4
    engine = small(host_cache=host_pages * bytes_of_page)
    plain = SmallEngine(engine.config, limits=EngineLimits(step_tokens=16, prefix_caching=False))
    for seed, length in asked:
        token_ids = prompt(engine.config, 4 * CHUNK, seed=seed)[:length]
        assert engine.answer(token_ids, SHORT).text == plain.answer(token_ids, SHORT).text
    check_at_rest(engine)


def kept(slots: int) -> tuple[KvCache, HostPages]:
    """A cache whose pages hold their own number, and a second level of so many pages."""
    shape = CacheShape(8, 8, PAGE, CHUNK)
    cache = KvCache.allocate(scout().text, shape, dtype=torch.float32)
    for tensor in cache.storage["global"]:
        for page in range(9):
            tensor[:, page] = page
    page_bytes = sum(tensor[:, 0].nbytes for tensor in cache.storage["global"])
    return cache, HostPages(cache, slots * page_bytes + page_bytes // 2)


def test_the_least_recently_used_page_makes_room_and_the_limit_holds() -> None:
    cache, pages = kept(2)
    assert pages.bytes <= 2 * sum(tensor[:, 0].nbytes for tensor in cache.storage["global"])
    pages.store(b"one", 1)
    pages.store(b"two", 2)
    pages.touch([b"one"])
    pages.store(b"three", 3)
    assert [name in pages for name in (b"one", b"two", b"three")] == [True, False, True]
    pages.load([b"three", b"one"], [7, 8])
    for tensor in cache.storage["global"]:
        assert bool((tensor[:, 7] == 3).all())
        assert bool((tensor[:, 8] == 1).all())


def test_content_that_is_not_trusted_is_forgotten_on_both_levels() -> None:
    _, pages = kept(4)
    shape = CacheShape(8, 8, PAGE, CHUNK)
    allocators = PageAllocators(shape)
    prefixes = PrefixCache(allocators, second=pages)
    hashes = PageHashes(PAGE)
    hashes.cover(list(range(CHUNK)), CHUNK)
    sequence = allocators.sequence()
    sequence.extend(CHUNK)
    prefixes.publish(sequence, hashes.hashes, 0)
    sequence.release()
    prefixes.make_room(8, 8)
    assert len(pages) == CHUNK // PAGE
    prefixes.forget(hashes.hashes)
    assert len(pages) == 0
    assert prefixes.attach(allocators.sequence(), hashes.hashes) == 0


def test_a_limit_below_one_page_is_refused_in_words() -> None:
    with pytest.raises(InvalidRequest, match="host_cache= of 10 bytes holds no page"):
        small(host_cache=10)


@pytest.mark.parametrize("size", ["much", -1, "900PB"])
async def test_host_memory_that_is_no_size_or_not_there_is_refused(tmp_path: Path, size: int | str) -> None:
    backend = LocalBackend(saved_chat(tmp_path), host_cache=size)
    with pytest.raises(InvalidRequest, match="host_cache"):
        await backend.start()
    await backend.aclose()
