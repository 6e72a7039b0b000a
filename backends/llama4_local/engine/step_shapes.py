"""The fixed shapes of steps that are graphs, and the inputs that fill one up.

A step is filled up with padding rows, which write to the null page and attend to it. In a step that reads prompts they
are one more sequence; in a decoding step each is one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from llama4_local.ops.batch import Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.cache.page_table import CacheShape, PoolName
    from llama4_local.engine.pinned_buffer import BufferRegion, PinnedBuffer
    from llama4_local.ops.batch import StepLayout

MOST_TOKENS = 512  # of a step with prompts that is a graph
_LEAST_TOKENS = 16
_FEW = 8  # sequences, padding ones among them, of the shapes for steps with few of them


@dataclass(frozen=True, slots=True, order=True)
class StepShape:
    """The size of a graph.

    Args:
        tokens: Rows.
        sequences: Places of sequences, those of padding rows among them.
        decoding: Whether each sequence has one row.
    """

    tokens: int
    sequences: int
    decoding: bool = False

    def holds(self, tokens: int, sequences: int) -> bool:
        """Whether a step fits, with its padding rows if there are any."""
        if self.decoding:
            return tokens == sequences <= self.sequences
        return tokens <= self.tokens and sequences + (tokens < self.tokens) <= self.sequences

    def padding(self, tokens: int, sequences: int) -> list[int]:
        """Return the padding rows of each place that a step leaves over."""
        places = self.sequences - sequences
        return [1] * places if self.decoding else [self.tokens - tokens, *[0] * (places - 1)][:places]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments for kernels to be launched for as many sequences, of one token each or several."""
        if self.decoding:
            return tuple(Segment(row, 1, 0) for row in range(self.sequences))
        return (Segment(0, 2, 0), *(Segment(0, 1, 0) for _ in range(self.sequences - 1)))


def step_shapes(tokens: int, sequences: int) -> tuple[StepShape, ...]:
    """Return the shapes with prompts, in rising order: between two numbers of tokens lie at most half as many.

    Args:
        tokens: Most tokens of a step.
        sequences: Most sequences of a step.
    """
    most = min(tokens, MOST_TOKENS)
    powers = [1 << n for n in range(most.bit_length())]
    sizes = {size for power in powers for size in (power, power * 3 // 2) if _LEAST_TOKENS <= size < most}
    places = sorted({min(_FEW, sequences + 1), sequences + 1})
    return tuple(StepShape(size, count) for size in sorted({*sizes, most}) for count in places)


def bucket_sizes(most: int) -> tuple[int, ...]:
    """Return the numbers of sequences that decoding steps have: powers of two, and the most there can be."""
    return (*(1 << n for n in range(most.bit_length()) if 1 << n < most), most)


@dataclass(frozen=True, slots=True)
class StepRegions:
    """The regions of a step's inputs in the pinned buffer; see `Batch`."""

    token_ids: BufferRegion
    positions: BufferRegion
    starts: BufferRegion
    slots: dict[PoolName, BufferRegion]
    contexts: dict[PoolName, BufferRegion]

    @classmethod
    def put(
        cls,
        buffer: PinnedBuffer,
        layout: StepLayout,
        shape: StepShape,
        cache: CacheShape,
        pools: Sequence[PoolName],
    ) -> StepRegions:
        """Write a step's inputs into the buffer, filled up with padding rows.

        Args:
            buffer: Takes them.
            layout: The step.
            shape: One that holds it.
            cache: The cache, whose first page is the null page.
            pools: The cache's pools.
        """
        padding = shape.padding(len(layout.token_ids), len(layout.segments))
        blank = [0] * sum(padding)
        ends = accumulate(padding, initial=layout.starts[-1])
        null = [at % cache.page_size for rows in padding for at in range(rows)]  # slots of the null page
        lengths = [max(rows, 1) for rows in padding]
        return cls(
            token_ids=buffer.put([*layout.token_ids, *blank]),
            positions=buffer.put([*layout.positions, *blank]),
            starts=buffer.put([*layout.starts[:-1], *ends]),
            slots={pool: buffer.put([*layout.slots.get(pool, ()), *null]) for pool in pools},
            contexts={pool: buffer.put([*layout.contexts.get(pool, ()), *lengths]) for pool in pools},
        )


def segments_of(starts: list[int]) -> tuple[Segment, ...]:
    """Return the segments of a step that have rows; those without are the last ones."""
    return tuple(Segment(start, end - start, 0) for start, end in pairwise(starts) if end > start)


def padding_pages(padding: Sequence[int], cache: CacheShape) -> list[int]:
    """Return the pages of sequences of so many padding rows, those without any left out."""
    return [cache.pages_for(rows) for rows in padding if rows]
