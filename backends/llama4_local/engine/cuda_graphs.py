"""Decoding steps of a few fixed shapes as CUDA graphs, each replayed with a single call of the host.

A step with fewer sequences is filled up with padding rows: they write to the null page, which belongs to no
sequence, and their logits are not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from llama4_local.engine.sampling_batch import SamplingBatch
from llama4_local.engine.step_shapes import bucket_sizes, segments_of
from llama4_local.model.transformer import forward, sampling_logits
from llama4_local.ops.batch import Batch, PoolTable, Segment, SequenceInput, pages_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.page_table import PoolName
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.device_page_table import DevicePageTables
    from llama4_local.engine.pinned_buffer import BufferRegion, PinnedBuffer
    from llama4_local.engine.step_shapes import StepRegions, StepShape
    from llama4_local.model.transformer import Model


class Graph(Protocol):
    """Recorded work over tensors at fixed addresses."""

    def replay(self) -> None:
        """Run the work again over the tensors' present content."""
        ...


Capture = Callable[[Callable[[], None]], Graph]


@dataclass(frozen=True, slots=True)
class Rerun:
    """A stand-in for a CUDA graph on any device: runs the same work over the same tensors."""

    work: Callable[[], None]

    def replay(self) -> None:
        """Run it."""
        self.work()


def cuda_capture() -> Capture:
    """Return a function that captures CUDA graphs; they share one memory pool, as no two run at the same time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(work: Callable[[], None]) -> Graph:
        work()  # compiles what is not compiled yet
        graph = torch.cuda.CUDAGraph()
        # Other threads of the application may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
        return graph

    return capture


@dataclass(frozen=True, slots=True)
class _Regions:
    """The regions of a bucket's inputs in the pinned buffer."""

    token_ids: BufferRegion
    positions: BufferRegion
    slots: dict[PoolName, BufferRegion]
    contexts: dict[PoolName, BufferRegion]
    sampling: SamplingBatch


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The graphs of one number of sequences: the model, and sampling without and with ranked tokens."""

    regions: _Regions
    scoring: Graph
    sampling: tuple[Graph, Graph]


@dataclass(frozen=True, slots=True)
class Recording:
    """Network, cache, inputs and capture, which the graphs of all steps share.

    Args:
        model: The network.
        cache: Its key/value cache.
        buffer: Takes a step's inputs.
        tables: Page tables, with a row for each sequence of a step.
        capture: Records work as a graph.
    """

    model: Model
    cache: KvCache
    buffer: PinnedBuffer
    tables: DevicePageTables
    capture: Capture

    def pool_tables(
        self, slots: dict[PoolName, BufferRegion], contexts: dict[PoolName, BufferRegion], rows: int
    ) -> dict[PoolName, PoolTable]:
        """Return the tables that a graph of so many sequences reads, from where its inputs lie in the buffer."""
        view = self.buffer.view
        tables: dict[PoolName, PoolTable] = {}
        for pool in self.tables.widths:
            lengths = view(contexts[pool])
            on_host = tuple(map(int, lengths.tolist())) if self.model.ops.host_lengths else ()
            tables[pool] = PoolTable(view(slots[pool]), self.tables.pages(pool, rows), on_host, lengths)
        return tables

    def batch(self, regions: StepRegions, shape: StepShape) -> Batch:
        """Return the batch that a graph of a shape reads; embeddings are looked up before."""
        view = self.buffer.view
        starts = view(regions.starts)
        segments = segments_of(starts.tolist()) if self.model.ops.host_lengths else shape.segments
        tables = self.pool_tables(regions.slots, regions.contexts, shape.sequences)
        return Batch(view(regions.token_ids), view(regions.positions), segments, starts, tables, starts[:0], None)


class DecodeGraphs:
    """One step for each of a few numbers of sequences, each with one token.

    Args:
        recording: Network, cache and inputs.
        sequences: Most sequences of a step.
    """

    def __init__(self, recording: Recording, *, sequences: int) -> None:
        self._recording = recording
        self._model = model = recording.model
        self._buffer = recording.buffer
        self._sizes = bucket_sizes(sequences)
        device = model.device
        self._starts = torch.arange(sequences + 1, device=device)
        self._no_rows = torch.zeros(0, dtype=torch.int64, device=device)
        self.logits = torch.zeros((sequences, model.config.text.vocab_size), dtype=torch.float32, device=device)
        """Where the graphs write their scores."""
        self._tokens = torch.zeros(sequences, dtype=torch.int64, device=device)
        self._buckets: dict[int, _Bucket] = {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of sequences."""
        return self._sizes

    def add(self, size: int) -> None:
        """Capture the graphs of a size; from the largest down, all fit into the memory of the first."""
        self._buckets[size] = self._captured(size)

    def score(self, inputs: Sequence[SequenceInput], states: Sequence[SamplerState], *, from_previous: bool) -> Tensor:
        """Compute a step and return its logits, [rows, vocab], fp32, valid until the next step.

        Args:
            inputs: One token of each sequence.
            states: How the next tokens are sampled; in the order of the inputs.
            from_previous: Take the tokens that `sample` returned last, of the same sequences, instead of the
                inputs' own.
        """
        size = self._size(len(inputs))
        bucket = self._buckets[size]
        regions = self._put(inputs, states, size, ahead=int(from_previous))
        self._recording.tables.send(self._buffer, inputs, [1] * (size - len(inputs)))
        if from_previous:
            torch.clamp(self._tokens[:size], min=0, out=self._buffer.view(regions.token_ids))
        bucket.scoring.replay()
        return self.logits[: len(inputs)]

    def sample(self, count: int, *, ranked: bool) -> Tensor:
        """Sample from the logits, and return the tokens, [count], as `Ops.sample` does."""
        self._buckets[self._size(count)].sampling[ranked].replay()
        return self._tokens[:count]

    def sampling_batch(self, count: int) -> SamplingBatch:
        """Return the sampling parameters of the last step, those of padding rows among them."""
        return self._buckets[self._size(count)].regions.sampling

    def _size(self, count: int) -> int:
        return next(size for size in self._sizes if size >= count)

    def _captured(self, size: int) -> _Bucket:
        self._buffer.begin()
        regions = self._put([], [], size)
        self._buffer.send()
        logits, tokens, starts = self.logits[:size], self._tokens[:size], self._starts[: size + 1]

        def scoring() -> None:
            hidden = forward(self._model, self._batch(regions, starts), self._recording.cache)
            sampling_logits(self._model, hidden, out=logits)

        def sampling(*, ranked: bool) -> Callable[[], None]:
            columns = regions.sampling.columns(self._buffer, ranked=ranked, rows=size)

            def work() -> None:
                tokens.copy_(self._model.ops.sample(logits, *columns))

            return work

        graphs = self._recording.capture(sampling(ranked=False)), self._recording.capture(sampling(ranked=True))
        return _Bucket(regions, self._recording.capture(scoring), graphs)

    def _put(
        self, inputs: Sequence[SequenceInput], states: Sequence[SamplerState], size: int, *, ahead: int = 0
    ) -> _Regions:
        """Write a step's inputs into the buffer, filled up with padding rows that write to the null page."""
        padding = [0] * (size - len(inputs))
        positions = [each.position for each in inputs]
        put, shape = self._buffer.put, self._recording.cache.shape
        slots: dict[PoolName, BufferRegion] = {}
        contexts: dict[PoolName, BufferRegion] = {}
        token_ids = put([each.token_ids[0] for each in inputs] + padding)
        positions_region = put(positions + padding)
        for pool in self._recording.tables.widths:
            within = positions if pool == "global" or shape.chunk is None else [at % shape.chunk for at in positions]
            pages = [pages_of(each, pool)[at // shape.page_size] for each, at in zip(inputs, within, strict=True)]
            offsets = [at % shape.page_size for at in within]
            slots[pool] = put([p * shape.page_size + o for p, o in zip(pages, offsets, strict=True)] + padding)
            contexts[pool] = put([at + 1 for at in within] + [1] * len(padding))
        sampling = SamplingBatch.put(self._buffer, states, size=size, ahead=ahead)
        return _Regions(token_ids, positions_region, slots, contexts, sampling)

    def _batch(self, regions: _Regions, starts: Tensor) -> Batch:
        size, view = len(starts) - 1, self._buffer.view
        tables = self._recording.pool_tables(regions.slots, regions.contexts, size)
        segments = tuple(Segment(row, 1, 0) for row in range(size))
        token_ids, positions = view(regions.token_ids), view(regions.positions)
        return Batch(token_ids, positions, segments, starts, tables, self._no_rows, None)


def table_widths(model: Model, cache: KvCache) -> dict[PoolName, int]:
    """Return the most pages of one sequence in each of the pools that a model has."""
    shape = cache.shape
    most = shape.pages_for(model.config.text.max_positions)
    widths: dict[PoolName, int] = {"global": min(shape.global_pages, most)}
    if shape.chunk is not None:
        widths["local"] = min(shape.local_pages, shape.pages_for(shape.chunk))
    return widths
