"""Steps over ranks as CUDA graphs: every rank captures the same shapes, and replays the same one in each step.

A graph runs from the embeddings to the last hidden states, the sums over the ranks inside it; tokens are sampled behind
it. Rank 0 fills the pinned buffer as for one process and sends its bytes to the others, whose buffers, page tables and
graphs are alike, so that a step is one message and one replay on each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from llama4_local.engine.cuda_graphs import Recording, table_widths
from llama4_local.engine.device_page_table import DevicePageTables
from llama4_local.engine.pinned_buffer import BufferRegion, PinnedBuffer, bytes_for
from llama4_local.engine.step_shapes import StepRegions, StepShape, bucket_sizes, padding_pages, step_shapes
from llama4_local.engine.warmup import captured_shapes
from llama4_local.model.ranks import as_one
from llama4_local.model.transformer import embed, forward_embedded
from llama4_local.ops.batch import lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.page_table import PoolName
    from llama4_local.engine.cuda_graphs import Capture, Graph
    from llama4_local.engine.device_page_table import TableChanges
    from llama4_local.model.ranks import Ranks
    from llama4_local.model.transformer import Model
    from llama4_local.ops.batch import SequenceInput, StepLayout

PREPARE, CAPTURE, REPLAY = "prepare", "capture", "replay"  # the commands to the other ranks


@dataclass(frozen=True, slots=True)
class GraphStep:
    """A step beside the numbers in the buffer.

    Args:
        shape: The place of its shape.
        rows: Its tokens, without padding rows.
        image_rows: Rows whose embeddings are images' features.
        changes: Of the page tables.
    """

    shape: int
    rows: int
    image_rows: BufferRegion
    changes: TableChanges

    def fields(self) -> dict[str, Any]:
        """Return it as JSON values."""
        changes = {pool: [_places(indices), _places(pages)] for pool, (indices, pages) in self.changes.items()}
        return {"shape": self.shape, "rows": self.rows, "image_rows": _places(self.image_rows), "changes": changes}

    @classmethod
    def read(cls, fields: dict[str, Any]) -> GraphStep:
        """Return the step whose values `fields` returned."""
        changes: dict[PoolName, tuple[BufferRegion, BufferRegion]] = {
            cast("PoolName", pool): (_region(indices), _region(pages))
            for pool, (indices, pages) in fields["changes"].items()
        }
        return cls(fields["shape"], fields["rows"], _region(fields["image_rows"]), changes)


class RankGraphs:
    """One rank's graphs; see the module.

    Args:
        model: Its share of the network.
        cache: Its part of the cache.
        ranks: The ranks; rank 0's tells the others of each capture and replay.
        capture: Records work as a graph.
        tokens: Most tokens of a step.
        sequences: Most sequences of a step.
    """

    def __init__(
        self, model: Model, cache: KvCache, ranks: Ranks, capture: Capture, tokens: int, sequences: int
    ) -> None:
        widths, places = table_widths(model, cache), sequences + 1  # one of padding rows
        reach = min(widths.values()) * cache.shape.page_size  # of a sequence of padding rows
        singles = tuple(StepShape(size, size, decoding=True) for size in bucket_sizes(sequences))
        self.shapes = (*singles, *step_shapes(min(tokens, reach), sequences))
        """In the order in which a step looks for the first that holds it."""
        self._most = max(shape.tokens for shape in self.shapes)
        size = bytes_for(self._most, places, widths.values())
        tables = DevicePageTables(widths, places, model.device)
        self._recording = Recording(model, cache, PinnedBuffer(size, model.device), tables, capture)
        self._ranks = ranks
        rows = (self._most, model.config.text.hidden_size)
        self._embedded = torch.zeros(rows, dtype=model.dtype, device=model.device)
        self._hidden = torch.zeros_like(self._embedded)
        self._gathered = torch.zeros((ranks.size, self._embedded.nbytes), dtype=torch.uint8, device=model.device)
        self._graphs: dict[int, tuple[StepRegions, Graph]] = {}

    @property
    def falling(self) -> list[int]:
        """The places of the shapes, from the largest on, so that all fit into the memory of the first graph."""
        return sorted(range(len(self.shapes)), key=lambda place: self.shapes[place].tokens, reverse=True)

    @property
    def described(self) -> str:
        """The shapes in words."""
        sizes = [shape.sequences for shape in self.shapes if shape.decoding]
        return captured_shapes(sizes, self.shapes[-1].tokens)

    @classmethod
    def on_all_ranks(
        cls, model: Model, cache: KvCache, ranks: Ranks, capture: Capture, *, tokens: int, sequences: int
    ) -> RankGraphs:
        """Return rank 0's, once it has told the others to make theirs."""
        ranks.announce(PREPARE, {"tokens": tokens, "sequences": sequences}, (), cache)
        return cls(model, cache, ranks, capture, tokens, sequences)

    def add(self, place: int) -> None:
        """Capture the graph of a shape, on all ranks."""
        self._ranks.announce(CAPTURE, {"shape": place}, (), self._recording.cache)
        shape, recording = self.shapes[place], self._recording
        recording.buffer.begin()
        regions = self._put(shape, lay_out(()))
        recording.tables.send(recording.buffer, (), self._padding_pages(shape, lay_out(())))

        def work() -> None:
            with self._ranks.gathering_into(self._gathered):
                batch = recording.batch(regions, shape)
                hidden = forward_embedded(recording.model, self._embedded[: shape.tokens], batch, recording.cache)
                self._hidden[: shape.tokens].copy_(hidden)

        with as_one(self._ranks):
            self._graphs[place] = regions, recording.capture(work)

    def launch(self, inputs: Sequence[SequenceInput]) -> Tensor | None:
        """Run a step on all ranks; return its last hidden states, [tokens, hidden], valid until the next one.

        None where no shape holds it, and then nothing has been done.
        """
        place = self._place(inputs)
        if place is None:
            return None
        buffer, tables, shape = self._recording.buffer, self._recording.tables, self.shapes[place]
        buffer.begin()
        layout = lay_out(inputs, image_token_id=self._recording.model.config.image_token_id)
        self._put(shape, layout)
        image_rows = buffer.put(layout.image_rows)
        changes = tables.put(buffer, inputs, self._padding_pages(shape, layout))
        step = GraphStep(place, len(layout.token_ids), image_rows, changes)
        features = layout.image_features
        tensors = (buffer.content, *(() if features is None else (features.cpu(),)))
        self._ranks.announce(REPLAY, step.fields(), tensors, self._recording.cache)
        with as_one(self._ranks):
            buffer.send()
            return self._replayed(step, features)

    def follow(self, fields: dict[str, Any], tensors: tuple[Tensor, ...]) -> Tensor:
        """Run a step that rank 0 has announced; see `launch`.

        Args:
            fields: As announced.
            tensors: As announced, on the device.
        """
        content, *features = tensors
        self._recording.buffer.take(content)
        return self._replayed(GraphStep.read(fields), features[0] if features else None)

    def close(self) -> None:
        """Drop the graphs: NCCL's group waits for those that hold its collectives when it ends."""
        self._graphs.clear()

    def _replayed(self, step: GraphStep, features: Tensor | None) -> Tensor:
        recording, view = self._recording, self._recording.buffer.view
        regions, graph = self._graphs[step.shape]
        recording.tables.write(recording.buffer, step.changes)
        embedded = embed(recording.model, view(regions.token_ids), view(step.image_rows), features)
        self._embedded[: len(embedded)].copy_(embedded)
        graph.replay()
        return self._hidden[: step.rows]

    def _place(self, inputs: Sequence[SequenceInput]) -> int | None:
        """Return the place of the first shape that a step fits into and that has its graph."""
        if not self._recording.tables.hold(inputs):
            return None
        tokens = sum(len(each.token_ids) for each in inputs)
        fitting = (place for place, shape in enumerate(self.shapes) if shape.holds(tokens, len(inputs)))
        return next((place for place in fitting if place in self._graphs), None)

    def _put(self, shape: StepShape, layout: StepLayout) -> StepRegions:
        recording = self._recording
        return StepRegions.put(recording.buffer, layout, shape, recording.cache.shape, tuple(recording.tables.widths))

    def _padding_pages(self, shape: StepShape, layout: StepLayout) -> list[int]:
        padding = shape.padding(len(layout.token_ids), len(layout.segments))
        return padding_pages(padding, self._recording.cache.shape)


def _places(region: BufferRegion) -> list[int]:
    return [region.offset, *region.shape]


def _region(places: list[int]) -> BufferRegion:
    offset, count = places
    return BufferRegion(offset, (count,), np.int64)
