"""Steps that read prompts, alone or beside decoding sequences, as CUDA graphs of a few fixed shapes.

A step is filled up to the next shape with one more sequence, of padding rows. They write to the null page and attend
to it, and no other sequence's rows see them; places of sequences that are left over have no rows. The embeddings are
looked up before a graph runs, so that images take part. Larger steps run eagerly: they compute longer than the host
launches.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from llama4_local.config.invariant import BrokenInvariant
from llama4_local.engine.sampling_batch import SamplingBatch
from llama4_local.model.transformer import embed, forward_embedded, sampling_logits
from llama4_local.ops.batch import Batch, Segment, StepLayout, lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.page_table import PoolName
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.cuda_graphs import Graph, Recording
    from llama4_local.engine.pinned_buffer import BufferRegion
    from llama4_local.ops.batch import SequenceInput

MOST_TOKENS = 512  # of a step that is a graph
_LEAST_TOKENS = 16
_FEW = 8  # sequences, padding ones among them, of the shapes for steps with few of them


@dataclass(frozen=True, slots=True, order=True)
class StepShape:
    """The size of a graph.

    Args:
        tokens: Rows.
        sequences: Places of sequences, the one of padding rows among them.
    """

    tokens: int
    sequences: int

    def holds(self, tokens: int, sequences: int) -> bool:
        """Whether a step fits, with a sequence for the padding rows if there are any."""
        return tokens <= self.tokens and sequences + (tokens < self.tokens) <= self.sequences


def step_shapes(tokens: int, sequences: int) -> tuple[StepShape, ...]:
    """Return the shapes, in rising order: between two numbers of tokens lie at most half as many.

    Args:
        tokens: Most tokens of a step.
        sequences: Most sequences of a step.
    """
    most = min(tokens, MOST_TOKENS)
    powers = [1 << n for n in range(most.bit_length())]
    sizes = {size for power in powers for size in (power, power * 3 // 2) if _LEAST_TOKENS <= size < most}
    places = sorted({min(_FEW, sequences + 1), sequences + 1})
    return tuple(StepShape(size, count) for size in sorted({*sizes, most}) for count in places)


@dataclass(frozen=True, slots=True)
class _Regions:
    """The regions of a shape's inputs in the pinned buffer; see `Batch`.

    Args:
        sampled: Rows that tokens are sampled behind, padded with the first row.
    """

    token_ids: BufferRegion
    positions: BufferRegion
    starts: BufferRegion
    slots: dict[PoolName, BufferRegion]
    contexts: dict[PoolName, BufferRegion]
    sampled: BufferRegion
    sampling: SamplingBatch


class MixedGraphs:
    """One graph for each shape.

    Args:
        recording: Network, cache and inputs; the page tables have a row more than there are sequences.
        logits: [sequences, vocab], fp32: where scores are written.
        tokens: Most tokens of a step.
    """

    def __init__(self, recording: Recording, logits: Tensor, *, tokens: int) -> None:
        self._recording = recording
        self._model = model = recording.model
        self._cache = cache = recording.cache
        self._buffer = recording.buffer
        self._tables = tables = recording.tables
        self._logits = logits
        reach = min(tables.widths.values()) * cache.shape.page_size  # of a sequence of padding rows
        self.shapes = step_shapes(min(tokens, reach), len(logits))
        most, hidden = self.shapes[-1].tokens, model.config.text.hidden_size
        self._embedded = torch.zeros((most, hidden), dtype=model.dtype, device=model.device)
        self._no_rows = torch.zeros(0, dtype=torch.int64, device=model.device)
        self._graphs: dict[StepShape, tuple[_Regions, Graph]] = {}

    def add(self, shape: StepShape) -> None:
        """Capture the graph of a shape; from the largest down, all fit into the memory of the first."""
        self._buffer.begin()
        layout = lay_out(())
        regions = self._put(shape, layout, (), ())
        self._send(shape, (), layout)

        def work() -> None:
            batch = self._batch(regions, shape)
            hidden = forward_embedded(self._model, self._embedded[: shape.tokens], batch, self._cache)
            rows = self._buffer.view(regions.sampled)
            sampling_logits(self._model, hidden.index_select(0, rows), out=self._logits[: len(rows)])

        self._graphs[shape] = regions, self._recording.capture(work)

    def shape_for(self, inputs: Sequence[SequenceInput], rows: int) -> StepShape | None:
        """Return the smallest shape that a step fits into, of which so many rows are sampled; None where there is none.

        All shapes have their graphs.
        """
        if not self._tables.hold(inputs):
            return None
        tokens = sum(len(each.token_ids) for each in inputs)
        fitting = (shape for shape in self.shapes if shape.holds(tokens, len(inputs)))
        return next((shape for shape in fitting if rows <= self._sampled(shape)), None)

    def score(
        self, shape: StepShape, inputs: Sequence[SequenceInput], rows: Sequence[int], states: Sequence[SamplerState]
    ) -> tuple[Tensor, SamplingBatch]:
        """Compute a step; return the logits, [rows, vocab], fp32, valid until the next step, and their parameters.

        Args:
            shape: That of `shape_for`.
            inputs: The tokens of each sequence.
            rows: Tokens of the step behind which one is sampled.
            states: How; one for each of `rows`.
        """
        layout = lay_out(inputs, image_token_id=self._model.config.image_token_id)
        regions = self._put(shape, layout, rows, states)
        _, graph = self._graphs[shape]
        image_rows = self._buffer.put(layout.image_rows)
        self._send(shape, inputs, layout)
        view = self._buffer.view
        embedded = embed(self._model, view(regions.token_ids), view(image_rows), layout.image_features)
        self._embedded[: shape.tokens].copy_(embedded)
        graph.replay()
        return self._logits[: len(rows)], regions.sampling

    def _put(
        self, shape: StepShape, layout: StepLayout, rows: Sequence[int], states: Sequence[SamplerState]
    ) -> _Regions:
        """Write a step's inputs into the buffer, filled up with padding."""
        sampled = self._sampled(shape)
        if len(rows) > sampled:
            raise BrokenInvariant(f"{len(rows)} tokens cannot be sampled in a step of {sampled}")
        put, page = self._buffer.put, self._cache.shape.page_size
        padding, places = shape.tokens - len(layout.token_ids), shape.sequences - len(layout.segments)
        null = [at % page for at in range(padding)]  # slots of the null page, the cache's first
        lengths = [max(padding, 1), *[1] * (places - 1)][:places]
        return _Regions(
            token_ids=put([*layout.token_ids, *[0] * padding]),
            positions=put([*layout.positions, *[0] * padding]),
            starts=put([*layout.starts, *[shape.tokens] * places]),
            slots={pool: put([*layout.slots.get(pool, ()), *null]) for pool in self._tables.widths},
            contexts={pool: put([*layout.contexts.get(pool, ()), *lengths]) for pool in self._tables.widths},
            sampled=put([*rows, *[0] * (sampled - len(rows))]),
            sampling=SamplingBatch.put(self._buffer, states, size=sampled),
        )

    def _sampled(self, shape: StepShape) -> int:
        """Return the most rows of a shape that tokens are sampled behind."""
        return min(shape.sequences, len(self._logits))

    def _send(self, shape: StepShape, inputs: Sequence[SequenceInput], layout: StepLayout) -> None:
        padding = shape.tokens - len(layout.token_ids)
        self._tables.send(self._buffer, inputs, [self._cache.shape.pages_for(padding)] if padding else ())

    def _batch(self, regions: _Regions, shape: StepShape) -> Batch:
        view = self._buffer.view
        tables = self._recording.pool_tables(regions.slots, regions.contexts, shape.sequences)
        starts = view(regions.starts)
        segments = _segments(starts.tolist()) if self._model.ops.host_lengths else _any_segments(shape)
        return Batch(view(regions.token_ids), view(regions.positions), segments, starts, tables, self._no_rows, None)


def _segments(starts: list[int]) -> tuple[Segment, ...]:
    """Return the segments of a step that have rows; those without are the last ones."""
    return tuple(Segment(start, end - start, 0) for start, end in pairwise(starts) if end > start)


def _any_segments(shape: StepShape) -> tuple[Segment, ...]:
    """Return segments for kernels to be launched for as many sequences, one token each or several."""
    return (Segment(0, 2, 0), *(Segment(0, 1, 0) for _ in range(shape.sequences - 1)))
