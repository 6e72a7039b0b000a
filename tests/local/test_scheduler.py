"""The scheduler on its own: no model, no tensor; tokens are made up as soon as they are asked for."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4_local.cache.page_table import CacheShape, PageAllocators
from llama4_local.cache.prefix_cache import PageHashes, PrefixCache
from llama4_local.engine.scheduler import HEAD_START, ScheduledStep, Scheduler, Sequence
from llama4sdk.errors import ContextOverflow, Overloaded

PAGE, CHUNK = 2, 8


class World:
    """A scheduler with a pretended model behind it, which checks every step that it is given."""

    def __init__(
        self,
        *,
        global_pages: int = 12,
        local_pages: int = 8,
        chunk: int | None = CHUNK,
        budget: int = 12,
        max_sequences: int = 4,
        max_waiting: int = 100,
        caching: bool = True,
    ) -> None:
        self.shape = CacheShape(global_pages, local_pages if chunk else 0, PAGE, chunk)
        self.pages = PageAllocators(self.shape)
        self.prefixes = PrefixCache(self.pages, enabled=caching)
        self.budget = budget
        self.max_sequences = max_sequences
        self.scheduler: Scheduler[Sequence] = Scheduler(
            self.pages, self.prefixes, budget=budget, max_sequences=max_sequences, max_waiting=max_waiting
        )
        self.alive: list[Sequence] = []
        self.finished: list[Sequence] = []

    def add(self, prompt: list[int], answer: int = 3, priority: int = 0, salt: str = "") -> Sequence:
        sequence = Sequence(
            tokens=list(prompt),
            pages=self.pages.sequence(),
            page_hashes=PageHashes(PAGE, salt),
            limit=len(prompt) + answer,
            priority=priority,
        )
        self.scheduler.add(sequence)
        self.alive.append(sequence)
        return sequence

    def step(self) -> ScheduledStep[Sequence]:
        step = self.scheduler.schedule()
        self.check(step)
        assert not step.stuck
        self.scheduler.computed(step.chunks)
        for chunk in step.chunks:
            sequence = chunk.sequence
            if chunk.reaches_end:
                sequence.tokens.append(1000 + len(sequence.tokens))
            if len(sequence.tokens) == sequence.limit:
                self.remove(sequence)
                self.finished.append(sequence)
        return step

    def remove(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.alive.remove(sequence)

    def run(self, steps: int = 1000) -> None:
        for _ in range(steps):
            if not self.alive:
                return
            self.step()
        raise AssertionError("the sequences do not come to an end")

    def check(self, step: ScheduledStep[Sequence]) -> None:
        assert sum(chunk.count for chunk in step.chunks) <= max(self.budget, self.max_sequences)
        assert len({id(chunk.sequence) for chunk in step.chunks}) == len(step.chunks)
        for chunk in step.chunks:
            assert chunk.count >= 1
            assert chunk.end == chunk.sequence.pages.length <= len(chunk.sequence.tokens)
            assert not chunk.sequence.paused
            if self.shape.chunk:
                assert chunk.start // self.shape.chunk == (chunk.end - 1) // self.shape.chunk
            self.check_tables(chunk.sequence, chunk.start)
        self.check_owners()

    def check_tables(self, sequence: Sequence, start: int) -> None:
        assert len(sequence.pages.global_pages) == self.shape.pages_for(sequence.pages.length)
        if self.shape.chunk:
            filled = sequence.pages.length - start // self.shape.chunk * self.shape.chunk
            assert len(sequence.pages.local_pages) == self.shape.pages_for(filled)

    def check_owners(self) -> None:
        """Every page is free, kept, or in tables; a page that is being written has one holder."""
        cached = self.prefixes.size
        for pool, tables, kept in (
            (self.pages.global_pool, [s.pages.global_pages for s in self.alive], cached[0]),
            (self.pages.local_pool, [s.pages.local_pages for s in self.alive], cached[1]),
        ):
            uses = Counter(page for table in tables for page in table)
            assert pool.free + len(uses) <= pool.pages <= pool.free + len(uses) + kept
        for sequence in self.alive:
            if sequence.pages.length % PAGE:
                assert not self.pages.global_pool.is_shared(sequence.pages.global_pages[-1])

    def check_baseline(self) -> None:
        self.prefixes.clear()
        assert self.pages.global_pool.free == self.shape.global_pages
        assert self.pages.local_pool.free == self.shape.local_pages


def test_a_prompt_is_computed_in_pieces_that_never_cross_a_chunk_edge() -> None:
    world = World(global_pages=20, budget=100)
    world.add(list(range(20)))
    assert [[chunk.count for chunk in world.step().chunks] for _ in range(3)] == [[8], [8], [4]]


def test_a_prompt_is_computed_within_the_token_budget() -> None:
    world = World(chunk=None, budget=5, global_pages=20)
    world.add(list(range(12)))
    assert [[chunk.count for chunk in world.step().chunks] for _ in range(3)] == [[5], [5], [2]]


def test_decoding_goes_before_prompts() -> None:
    world = World(chunk=None, budget=6, global_pages=30)
    first = world.add([1, 2, 3], answer=9)
    world.step()
    world.add(list(range(10)))
    step = world.step()
    assert [(chunk.sequence is first, chunk.count) for chunk in step.chunks] == [(True, 1), (False, 5)]


def test_a_long_prompt_leaves_room_for_a_short_one() -> None:
    world = World(chunk=None, budget=128, global_pages=400)
    long = world.add(list(range(600)))
    short = world.add([7] * 5)
    step = world.step()
    assert {id(chunk.sequence): chunk.count for chunk in step.chunks} == {id(long): 64, id(short): 5}


def test_a_higher_priority_goes_first() -> None:
    world = World(max_sequences=1)
    world.add([1, 2])
    world.step()
    ordinary, urgent = world.add([3, 4]), world.add([5, 6], priority=1)
    world.run()
    assert world.finished[1:] == [urgent, ordinary]


def test_a_priority_is_a_head_start_and_not_a_right_of_way_for_ever() -> None:
    world = World(max_sequences=1, max_waiting=1000)
    patient = world.add([1, 2], answer=1, priority=-1)
    for _ in range(3 * HEAD_START):
        world.add([3, 4], answer=1)
        world.step()
    assert patient in world.finished


def test_too_many_waiting_is_overloaded() -> None:
    world = World(max_waiting=2)
    world.add([1, 2])
    world.add([1, 2])
    with pytest.raises(Overloaded):
        world.add([1, 2])


def test_what_never_fits_is_refused_with_the_counts() -> None:
    world = World(global_pages=4)
    with pytest.raises(ContextOverflow) as caught:
        world.add(list(range(7)), answer=3)
    assert (caught.value.prompt_tokens, caught.value.limit) == (7, 8)


def test_a_pool_of_local_pages_below_a_chunk_bounds_the_context() -> None:
    assert World(global_pages=50, local_pages=3).scheduler.capacity == 6
    assert World(global_pages=50, local_pages=4).scheduler.capacity == 100


def test_local_pages_come_back_at_the_chunk_edge() -> None:
    world = World(caching=False, global_pages=20)
    sequence = world.add(list(range(8)), answer=9)
    world.step()
    assert sequence.pages.local_pages == []
    assert world.pages.local_pool.free == world.shape.local_pages
    world.step()
    assert len(sequence.pages.local_pages) == 1


def test_fault_55_a_full_cache_preempts_the_last_and_everybody_still_finishes() -> None:
    world = World(global_pages=8, chunk=None, caching=False)
    sequences = [world.add([n] * 4, answer=10) for n in range(3)]
    preempted = False
    while world.alive:
        before = {id(s): s.pages.length for s in world.alive}
        world.step()
        preempted |= any(s.pages.length < before[id(s)] for s in world.alive)
    assert preempted
    assert world.finished == sequences
    world.check_baseline()


def test_fault_55_one_sequence_may_use_the_whole_cache_across_chunk_edges() -> None:
    world = World(global_pages=20, local_pages=CHUNK // PAGE, caching=False)
    world.add(list(range(10)), answer=30)
    world.add(list(range(10)), answer=30)
    world.run()
    world.check_baseline()


def test_fault_60_a_lagging_reader_gives_way_to_those_who_wait() -> None:
    world = World(global_pages=8, chunk=None, max_sequences=1)
    slow = world.add([1] * 6, answer=10)
    world.step()
    slow.paused = True
    quick = world.add([2] * 6, answer=10)
    while quick in world.alive:
        assert world.step().chunks
    slow.paused = False
    world.run()
    assert world.finished == [quick, slow]


def test_nothing_to_do_is_idle() -> None:
    world = World()
    assert world.scheduler.idle
    sequence = world.add([1, 2, 3])
    assert not world.scheduler.idle
    sequence.paused = True
    assert world.scheduler.idle


def test_a_prompt_that_was_seen_before_is_not_computed_again() -> None:
    world = World(global_pages=30, local_pages=30)
    world.add(list(range(13)))
    world.run()
    again = world.add(list(range(13)))
    step = world.step()
    assert again.reused == 12
    assert [(chunk.start, chunk.count) for chunk in step.chunks] == [(12, 1)]


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    world = World(global_pages=30, local_pages=30)
    world.add(list(range(12)))
    world.run()
    again = world.add(list(range(12)))
    world.step()
    assert again.reused == 10


def test_without_its_local_pages_a_prefix_is_reused_to_the_chunk_edge() -> None:
    world = World(global_pages=40, local_pages=CHUNK // PAGE)
    world.add(list(range(13)))
    world.run()
    world.add([99] * 7)
    world.run()
    again = world.add(list(range(13)))
    world.step()
    assert again.reused == CHUNK


def test_another_salt_shares_nothing() -> None:
    world = World(global_pages=30, local_pages=30)
    world.add(list(range(13)), salt="one tenant")
    world.run()
    other = world.add(list(range(13)), salt="another")
    world.step()
    assert other.reused == 0


def test_a_preempted_sequence_finds_its_own_pages_again() -> None:
    world = World(global_pages=30, local_pages=30)
    sequence = world.add(list(range(6)), answer=8)
    world.step()
    sequence.paused = True
    while len(world.finished) < 8:
        world.add([50] * 4)
        world.step()
    sequence.paused = False
    world.run()
    assert sequence.reused == 0
    world.check_baseline()


def test_distrusted_pages_are_not_reused() -> None:
    world = World(global_pages=30, local_pages=30)
    bad = world.add(list(range(13)))
    world.step()
    world.scheduler.distrust(bad)
    world.remove(bad)
    again = world.add(list(range(13)))
    world.step()
    assert again.reused == 0


def test_a_sequence_that_nothing_can_make_room_for_is_reported_stuck() -> None:
    world = World(chunk=None, global_pages=6)
    others = world.pages.global_pool.take(4)
    waiting = world.add(list(range(6)))
    assert world.scheduler.schedule().stuck == (waiting,)
    world.remove(waiting)
    growing = world.add(list(range(4)), answer=6)
    world.scheduler.computed(world.scheduler.schedule().chunks)
    growing.tokens.append(4)
    assert world.scheduler.schedule().stuck == (growing,)
    world.remove(growing)
    world.pages.global_pool.release(others)
    world.check_baseline()


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    global_pages=st.integers(10, 40),
    local_pages=st.integers(4, 20),
    chunk=st.sampled_from([None, CHUNK]),
    budget=st.integers(1, 40),
    max_sequences=st.integers(1, 6),
    caching=st.booleans(),
)
def test_random_traffic_always_ends_with_every_page_back(
    seed: int,
    global_pages: int,
    local_pages: int,
    chunk: int | None,
    budget: int,
    max_sequences: int,
    caching: bool,
) -> None:
    world = World(
        global_pages=global_pages,
        local_pages=local_pages,
        chunk=chunk,
        budget=budget,
        max_sequences=max_sequences,
        caching=caching,
    )
    chance = random.Random(seed)
    for _ in range(chance.randrange(80)):
        match chance.randrange(6):
            case 0 | 1 if world.scheduler.capacity >= 18:
                prompt = [chance.randrange(2)] * chance.randrange(1, 13)
                world.add(prompt, chance.randrange(1, 6), chance.randrange(-3, 4), chance.choice("ab"))
            case 2 if world.alive:
                world.remove(chance.choice(world.alive))
            case 3 if world.alive:
                slow = chance.choice(world.alive)
                slow.paused = not slow.paused
            case _:
                world.step()
    for sequence in world.alive:
        sequence.paused = False
    world.run()
    world.check_baseline()
