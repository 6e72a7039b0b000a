"""Pages of the cache: who holds them, when they come back, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama4_local.cache.kv_cache import KvCache, cache_bytes
from llama4_local.cache.page_table import (
    NULL_PAGE,
    CacheShape,
    PageAllocators,
    PageCopy,
    PagePool,
    SequencePages,
    default_page_size,
)
from llama4_local.cache.prefix_cache import PrefixCache
from llama4_local.config.invariant import BrokenInvariant
from llama4sdk.errors import Overloaded
from local.small_checkpoints import CHUNK, guard, scout

SHAPE = CacheShape(global_pages=40, local_pages=8, page_size=4, chunk=CHUNK)
ENDLESS = CacheShape(global_pages=40, local_pages=0, page_size=4, chunk=None)


def grow(sequence: SequencePages, tokens: int) -> None:
    """Extend in the largest steps that keep within chunks."""
    while tokens:
        step = min(tokens, sequence.room_in_chunk() or tokens)
        sequence.extend(step)
        tokens -= step


def test_a_pool_hands_out_each_page_once_and_never_the_null_page():
    pool = PagePool(5)
    pages = pool.take(5)
    assert sorted(pages) == [1, 2, 3, 4, 5]
    assert NULL_PAGE not in pages


def test_an_exhausted_pool_takes_nothing():
    pool = PagePool(3)
    pool.take(2)
    with pytest.raises(Overloaded):
        pool.take(2)
    assert pool.free == 1


def test_a_shared_page_is_free_only_when_all_let_go():
    pool = PagePool(1)
    pages = pool.take(1)
    pool.share(pages)
    assert pool.is_shared(pages[0])
    pool.release(pages)
    assert pool.free == 0
    pool.release(pages)
    assert pool.free == 1


@pytest.mark.parametrize("page", [0, 1, 2, -1])
def test_releasing_a_page_that_is_not_allocated_is_an_error(page: int):
    with pytest.raises(BrokenInvariant, match="not allocated"):
        PagePool(1).release([page])


def test_local_pages_are_freed_wholesale_at_a_chunk_edge():
    pages = PageAllocators(SHAPE)
    sequence = pages.sequence()
    grow(sequence, CHUNK)
    assert (len(sequence.global_pages), len(sequence.local_pages)) == (2, 2)
    sequence.extend(1)
    assert (len(sequence.global_pages), len(sequence.local_pages)) == (3, 1)
    assert pages.local_pool.free == SHAPE.local_pages - 1


def test_a_long_sequence_holds_at_most_one_chunk_of_local_pages():
    pages = PageAllocators(SHAPE)
    sequence = pages.sequence()
    for _ in range(100):
        sequence.extend(1)
        assert len(sequence.local_pages) <= SHAPE.local_pages_for(sequence.length)
    assert len(sequence.global_pages) == SHAPE.pages_for(100)


def test_without_chunks_only_the_global_pool_gives_pages():
    sequence = PageAllocators(ENDLESS).sequence()
    sequence.extend(100)
    assert (len(sequence.global_pages), sequence.local_pages) == (25, [])
    assert sequence.room_in_chunk() is None


@pytest.mark.parametrize("count", [0, CHUNK + 1])
def test_a_step_never_crosses_a_chunk_edge(count: int):
    with pytest.raises(BrokenInvariant):
        PageAllocators(SHAPE).sequence().extend(count)


def test_too_few_pages_leave_everything_as_it_was():
    pages = PageAllocators(replace(SHAPE, global_pages=2))
    sequence = pages.sequence()
    grow(sequence, CHUNK)
    with pytest.raises(Overloaded):
        sequence.extend(1)
    assert sequence.length == CHUNK
    sequence.release()
    assert (pages.global_pool.free, pages.local_pool.free) == (2, SHAPE.local_pages)


def test_a_fork_copies_only_the_page_that_is_partly_filled():
    sequence = PageAllocators(SHAPE).sequence()
    grow(sequence, 6)
    twin = sequence.fork()
    before = twin.global_pages[-1], twin.local_pages[-1]
    assert twin.pages_needed(1) == (1, 1)
    copies = twin.extend(1)
    assert copies == (
        PageCopy("global", before[0], twin.global_pages[-1]),
        PageCopy("local", before[1], twin.local_pages[-1]),
    )
    assert twin.global_pages[0] == sequence.global_pages[0]
    assert sequence.extend(1) == ()


def test_a_fork_at_a_page_edge_copies_nothing():
    sequence = PageAllocators(SHAPE).sequence()
    grow(sequence, 4)
    assert sequence.fork().extend(1) == ()


@given(st.lists(st.tuples(st.sampled_from(["new", "grow", "fork", "drop"]), st.integers(0, 50)), max_size=60))
def test_whatever_happens_pages_add_up(actions: list[tuple[str, int]]):
    pages = PageAllocators(CacheShape(30, 10, 4, CHUNK))
    living: list[SequencePages] = []
    for action, number in actions:
        picked = living[number % len(living)] if living else pages.sequence()
        if action == "new":
            living.append(pages.sequence())
        elif action == "fork" and living:
            living.append(picked.fork())
        elif action == "drop" and living:
            living.remove(picked)
            picked.release()
        elif living:
            count = number % (picked.room_in_chunk() or 1) + 1
            needed, free = picked.pages_needed(count), (pages.global_pool.free, pages.local_pool.free)
            given_back = len(picked.local_pages) if picked.length % CHUNK == 0 else 0
            if needed[0] <= free[0] and needed[1] <= free[1]:
                picked.extend(count)
                assert pages.global_pool.free == free[0] - needed[0]
                assert free[1] - needed[1] <= pages.local_pool.free <= free[1] - needed[1] + given_back
        assert pages.global_pool.free == 30 - len({page for s in living for page in s.global_pages})
        assert pages.local_pool.free == 10 - len({page for s in living for page in s.local_pages})
    for sequence in living:
        sequence.release()
    assert (pages.global_pool.free, pages.local_pool.free) == (30, 10)


@pytest.mark.parametrize("page_size", [0, 3, 16])
def test_a_page_size_that_does_not_divide_the_chunk_is_refused(page_size: int):
    with pytest.raises(BrokenInvariant, match="page_size"):
        CacheShape(1, 1, page_size, CHUNK)


@pytest.mark.parametrize(("chunk", "size"), [(8192, 64), (8, 8), (96, 48), (7, 7), (None, 64)])
def test_the_default_page_divides_the_chunk(chunk: int | None, size: int):
    assert default_page_size(chunk) == size


class CountingPool(PagePool):
    """Counts how often it is asked whether a page is in use."""

    asked = 0

    def is_shared(self, page: int) -> bool:
        self.asked += 1
        return super().is_shared(page)


def test_room_is_found_without_looking_at_pages_in_use_again_and_again():
    pages = PageAllocators(CacheShape(global_pages=1000, local_pages=0, page_size=1, chunk=None))
    pool = pages.global_pool = CountingPool(1000)
    prefixes = PrefixCache(pages)
    hashes = [f"{number}".encode() for number in range(1000)]
    sequence = pages.sequence()
    sequence.extend(1000)
    prefixes.publish(sequence, hashes, 0)
    assert not any(prefixes.make_room(1, 0) for _ in range(50))
    assert pool.asked <= 1000
    sequence.release()
    prefixes.touch(hashes)
    assert prefixes.make_room(400, 0)
    assert pool.asked <= 1000 + 400
    assert prefixes.attach(pages.sequence(), hashes) == 600  # a sequence's first pages are evicted last


def test_layers_lie_in_the_pool_they_belong_to():
    text = scout().text
    cache = KvCache.allocate(text, SHAPE, dtype=torch.bfloat16)
    assert [layer.pool for layer in cache.layers] == ["local", "local", "local", "global"] * 2
    assert cache.layers[3].keys.shape == (SHAPE.global_pages + 1, 4, text.kv_heads, text.head_dim)
    assert cache.layers[0].keys.shape[0] == SHAPE.local_pages + 1


@pytest.mark.parametrize(("make", "shape"), [(scout, SHAPE), (guard, ENDLESS)])
def test_the_bytes_foretold_are_the_bytes_allocated(make: object, shape: CacheShape):
    text = scout().text if make is scout else guard().text
    assert KvCache.allocate(text, shape, dtype=torch.float32).bytes == cache_bytes(text, shape, 4)


def test_copied_pages_hold_the_same_in_every_layer_of_their_pool():
    cache = KvCache.allocate(scout().text, SHAPE, dtype=torch.float32)
    for layer in cache.layers:
        layer.keys[1], layer.values[1] = 2.0, 3.0
    cache.copy([PageCopy("global", 1, 5)])
    for layer in cache.layers:
        copied = layer.pool == "global"
        assert bool((layer.keys[5] == 2.0).all()) == copied
        assert bool((layer.values[5] == 3.0).all()) == copied
