"""Steps that read prompts, alone or beside decoding sequences, as CUDA graphs of a few fixed shapes.

A step is filled up to the next shape, see `step_shapes`; no other sequence's rows see the padding rows, and places of
sequences that are left over have no rows. The embeddings are looked up before a graph runs, so that images take part.
Larger steps run eagerly: they compute longer than the host launches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llama4_local.config.invariant import BrokenInvariant
from llama4_local.engine.sampling_batch import SamplingBatch
from llama4_local.engine.step_shapes import StepRegions, StepShape, padding_pages, step_shapes
from llama4_local.model.transformer import embed, forward_embedded, sampling_logits
from llama4_local.ops.batch import StepLayout, lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.cuda_graphs import Graph, Recording
    from llama4_local.engine.pinned_buffer import BufferRegion
    from llama4_local.ops.batch import SequenceInput


@dataclass(frozen=True, slots=True)
class _Regions:
    """The regions of a shape's inputs in the pinned buffer.

    Args:
        step: The network's inputs.
        sampled: Rows that tokens are sampled behind, padded with the first row.
        sampling: How.
    """

    step: StepRegions
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
        self._graphs: dict[StepShape, tuple[_Regions, Graph]] = {}

    def add(self, shape: StepShape) -> None:
        """Capture the graph of a shape; from the largest down, all fit into the memory of the first."""
        self._buffer.begin()
        layout = lay_out(())
        regions = self._put(shape, layout, (), ())
        self._send(shape, (), layout)

        def work() -> None:
            batch = self._recording.batch(regions.step, shape)
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
        embedded = embed(self._model, view(regions.step.token_ids), view(image_rows), layout.image_features)
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
        return _Regions(
            step=StepRegions.put(self._buffer, layout, shape, self._cache.shape, tuple(self._tables.widths)),
            sampled=self._buffer.put([*rows, *[0] * (sampled - len(rows))]),
            sampling=SamplingBatch.put(self._buffer, states, size=sampled),
        )

    def _sampled(self, shape: StepShape) -> int:
        """Return the most rows of a shape that tokens are sampled behind."""
        return min(shape.sequences, len(self._logits))

    def _send(self, shape: StepShape, inputs: Sequence[SequenceInput], layout: StepLayout) -> None:
        padding = shape.padding(len(layout.token_ids), len(layout.segments))
        self._tables.send(self._buffer, inputs, padding_pages(padding, self._cache.shape))
