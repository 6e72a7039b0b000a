"""Steps that nobody asked for, run once at load, so that none has to be compiled when somebody does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.cache.page_table import Pages
from llama4_local.decoding.sampler import Chooser, Rules
from llama4_local.engine.cuda_graphs import bucket_sizes
from llama4_local.ops.batch import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4_local.cache.page_table import CacheShape, SequencePages

_RANKED = Rules(temperature=1.0, top_p=0.9)


def rehearsals(shape: CacheShape, *, tokens: int, sequences: int) -> Iterator[list[Work]]:
    """Yield steps of every size at which kernels are cut in another way, while nobody holds a page.

    Kernels change at numbers of tokens of which each range holds a power of two.

    Args:
        shape: The cache, still without content.
        tokens: Most tokens of a step.
        sequences: Most sequences of a step.
    """
    for count in bucket_sizes(tokens):
        yield prompts(Pages(shape), count, sequences)
    for count in bucket_sizes(sequences):
        yield prompts(Pages(shape), count, count, each=1)


def prompts(pages: Pages, count: int, sequences: int, each: int | None = None) -> list[Work]:
    """Return work of up to `count` tokens, of as few sequences as hold them, or `each` tokens of every one."""
    works: list[Work] = []
    while count and len(works) < sequences:
        sequence = pages.sequence()
        fits = min(each or count, count, _room(pages, sequence))
        if not fits:
            break
        sequence.extend(fits)
        works.append(Work(sequence, [0] * fits))
        count -= fits
    return works


def choosers(works: list[Work], *, ranked: bool) -> list[Chooser]:
    """Return who chooses after each of the works."""
    return [Chooser(_RANKED if ranked else Rules(), [], []) for _ in works]


def _room(pages: Pages, sequence: SequencePages) -> int:
    """Tokens that an empty sequence can add in one step."""
    free = pages.global_pool.free
    chunk = sequence.room_in_chunk()
    if chunk is None:
        return free * pages.shape.page_size
    return min(free * pages.shape.page_size, pages.local_pool.free * pages.shape.page_size, chunk)
