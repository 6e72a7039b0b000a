"""Steps that nobody asked for, run once at load, so that none has to be compiled when somebody does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.cache.page_table import PageAllocators
from llama4_local.decoding.sampler import ResolvedSampling, SamplerState
from llama4_local.engine.cuda_graphs import bucket_sizes
from llama4_local.ops.batch import SequenceInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4_local.cache.page_table import CacheShape, SequencePages

_RANKED = ResolvedSampling(temperature=1.0, top_p=0.9)


def rehearsals(shape: CacheShape, *, tokens: int, sequences: int) -> Iterator[list[SequenceInput]]:
    """Yield steps of every size at which kernels are cut in another way, while nobody holds a page.

    Kernels change at numbers of tokens of which each range holds a power of two.

    Args:
        shape: The cache, still without content.
        tokens: Most tokens of a step.
        sequences: Most sequences of a step.
    """
    for count in bucket_sizes(tokens):
        yield prompts(PageAllocators(shape), count, sequences)
    for count in bucket_sizes(sequences):
        yield prompts(PageAllocators(shape), count, count, each=1)


def prompts(pages: PageAllocators, count: int, sequences: int, each: int | None = None) -> list[SequenceInput]:
    """Return work of up to `count` tokens, of as few sequences as hold them, or `each` tokens of every one."""
    works: list[SequenceInput] = []
    while count and len(works) < sequences:
        sequence = pages.sequence()
        fits = min(each or count, count, _room(pages, sequence))
        if not fits:
            break
        sequence.extend(fits)
        works.append(SequenceInput(sequence, [0] * fits))
        count -= fits
    return works


def choosers(works: list[SequenceInput], *, ranked: bool) -> list[SamplerState]:
    """Return who chooses after each of the works."""
    return [SamplerState(_RANKED if ranked else ResolvedSampling(), [], []) for _ in works]


def _room(pages: PageAllocators, sequence: SequencePages) -> int:
    """Tokens that an empty sequence can add in one step."""
    free = pages.global_pool.free
    chunk = sequence.room_in_chunk()
    if chunk is None:
        return free * pages.shape.page_size
    return min(free * pages.shape.page_size, pages.local_pool.free * pages.shape.page_size, chunk)
