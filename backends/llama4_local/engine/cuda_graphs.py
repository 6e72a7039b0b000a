"""Decoding in steps of a few fixed shapes, so that a CUDA graph repeats each with a single call of the host.

A step with fewer sequences is filled up: rows that stand for nobody write to page 0, which is never handed out,
and what comes of them is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from llama4_local.cache.page_table import NULL_PAGE
from llama4_local.engine.device_page_table import DevicePageTable
from llama4_local.engine.sampling_batch import SamplingBatch
from llama4_local.model.transformer import forward, uncast_logits
from llama4_local.ops.batch import Batch, PoolTable, Segment, SequenceInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.page_table import PoolName
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.pinned_buffer import BufferRegion, PinnedBuffer
    from llama4_local.model.transformer import Model


class Graph(Protocol):
    """Work over tensors that stay where they are."""

    def replay(self) -> None:
        """Do it again, with what the tensors hold now."""
        ...


Capture = Callable[[Callable[[], None]], Graph]


@dataclass(frozen=True, slots=True)
class Rerun:
    """Stands in for a CUDA graph on any device: runs the same work over the same tensors."""

    work: Callable[[], None]

    def replay(self) -> None:
        """Run it."""
        self.work()


def cuda_capture() -> Capture:
    """Return what captures CUDA graphs that share one pool of memory, as they never run at the same time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(work: Callable[[], None]) -> Graph:
        work()  # compiles what is not compiled yet
        graph = torch.cuda.CUDAGraph()
        # Other threads of the application may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
        return graph

    return capture


def bucket_sizes(most: int) -> tuple[int, ...]:
    """Return the numbers of sequences that steps have: powers of two, and the most there can be."""
    return (*(1 << n for n in range(most.bit_length()) if 1 << n < most), most)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a bucket's inputs lie."""

    token_ids: BufferRegion
    positions: BufferRegion
    slots: dict[PoolName, BufferRegion]
    contexts: dict[PoolName, BufferRegion]
    settings: SamplingBatch


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The graphs of one number of sequences; two that choose, the second one for steps that rank tokens."""

    places: _Places
    scoring: Graph
    choosing: tuple[Graph, Graph]


class DecodeGraphs:
    """One step for each of a few numbers of sequences, each with one token.

    Args:
        model: What runs.
        cache: Its cache.
        staging: Takes a step's inputs.
        sequences: Most sequences of a step.
        capture: Makes graphs.
    """

    def __init__(
        self, model: Model, cache: KvCache, staging: PinnedBuffer, *, sequences: int, capture: Capture
    ) -> None:
        self._model = model
        self._cache = cache
        self._staging = staging
        self._capture = capture
        self._sizes = bucket_sizes(sequences)
        device = model.device
        self._tables: dict[PoolName, DevicePageTable] = {
            pool: DevicePageTable(sequences, width, device) for pool, width in table_widths(model, cache).items()
        }
        self._starts = torch.arange(sequences + 1, device=device)
        self._nobody = torch.zeros(0, dtype=torch.int64, device=device)
        self._scores = torch.zeros((sequences, model.config.text.vocab_size), dtype=torch.float32, device=device)
        self._tokens = torch.zeros(sequences, dtype=torch.int64, device=device)
        self._buckets: dict[int, _Bucket] = {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of sequences."""
        return self._sizes

    def add(self, size: int) -> None:
        """Make the graphs of a size; made from the largest down, all fit into the memory of the first."""
        self._buckets[size] = self._captured(size)

    def score(self, works: Sequence[SequenceInput], rows: Sequence[SamplerState], *, fed: bool) -> Tensor:
        """Compute a step and return the scores, [rows, vocab], fp32, valid until the next one.

        Args:
            works: One token of each sequence.
            rows: Who chooses from the scores; in the order of the works.
            fed: Take the tokens that `choose` chose last, of the same sequences, instead of the works' own.
        """
        size = self._size(len(works))
        bucket = self._buckets[size]
        try:
            places = self._put(works, rows, size, fed=fed)
            self._update_tables(works, size)
        except BaseException:
            for table in self._tables.values():
                table.forget()
            raise
        if fed:
            torch.clamp(self._tokens[:size], min=0, out=self._staging.view(places.token_ids))
        bucket.scoring.replay()
        return self._scores[: len(works)]

    def choose(self, count: int, *, ranked: bool) -> Tensor:
        """Choose from the scores, and return the tokens, [count], as `Ops.choose` does."""
        self._buckets[self._size(count)].choosing[ranked].replay()
        return self._tokens[:count]

    def settings(self, count: int) -> SamplingBatch:
        """Return where the settings of the last step lie, those of rows that stand for nobody among them."""
        return self._buckets[self._size(count)].places.settings

    def _size(self, count: int) -> int:
        return next(size for size in self._sizes if size >= count)

    def _captured(self, size: int) -> _Bucket:
        self._staging.begin()
        places = self._put([], [], size, fed=False)
        self._staging.send()
        scores, tokens, starts = self._scores[:size], self._tokens[:size], self._starts[: size + 1]
        image_token = self._model.config.image_token_id

        def scoring() -> None:
            hidden = forward(self._model, self._batch(places, starts), self._cache)
            scores.copy_(uncast_logits(self._model, hidden))
            if image_token is not None:
                scores[:, image_token].fill_(-torch.inf)  # a placeholder without an image means nothing

        def choosing(*, ranked: bool) -> Callable[[], None]:
            settings = places.settings.views(self._staging, ranked=ranked, rows=size)
            return lambda: void(tokens.copy_(self._model.ops.choose(scores, *settings)))

        graphs = self._capture(choosing(ranked=False)), self._capture(choosing(ranked=True))
        return _Bucket(places, self._capture(scoring), graphs)

    def _put(self, works: Sequence[SequenceInput], rows: Sequence[SamplerState], size: int, *, fed: bool) -> _Places:
        """Lay a step's inputs out, filled up with rows that write to the null page."""
        rest = [0] * (size - len(works))
        positions = [work.position for work in works]
        put, shape = self._staging.put, self._cache.shape
        slots: dict[PoolName, BufferRegion] = {}
        contexts: dict[PoolName, BufferRegion] = {}
        token_ids = put([work.token_ids[0] for work in works] + rest)
        placed = put(positions + rest)
        for pool in self._tables:
            within = positions if pool == "global" or shape.chunk is None else [at % shape.chunk for at in positions]
            pages = [table_of(work, pool)[at // shape.page_size] for work, at in zip(works, within, strict=True)]
            offsets = [at % shape.page_size for at in within]
            slots[pool] = put([p * shape.page_size + o for p, o in zip(pages, offsets, strict=True)] + rest)
            contexts[pool] = put([at + 1 for at in within] + [1] * len(rest))
        return _Places(
            token_ids, placed, slots, contexts, SamplingBatch.put(self._staging, rows, size=size, ahead=int(fed))
        )

    def _update_tables(self, works: Sequence[SequenceInput], size: int) -> None:
        """Send everything, and bring the page tables up to date."""
        rest = [[NULL_PAGE] for _ in range(size - len(works))]
        changes: list[tuple[DevicePageTable, BufferRegion, BufferRegion]] = []
        for pool, table in self._tables.items():
            places, pages = table.changes([table_of(work, pool) for work in works] + rest)
            if places:
                changes.append((table, self._staging.put(places), self._staging.put(pages)))
        self._staging.send()
        for table, places, pages in changes:
            table.write(self._staging.view(places), self._staging.view(pages))

    def _batch(self, places: _Places, starts: Tensor) -> Batch:
        size = len(starts) - 1
        view = self._staging.view
        tables: dict[PoolName, PoolTable] = {}
        for pool, table in self._tables.items():
            lengths = view(places.contexts[pool])
            # Kernels find everything in the tensors; only the reference asks for numbers on the host.
            contexts = () if self._model.ops.capturable else tuple(int(length) for length in lengths.tolist())
            tables[pool] = PoolTable(view(places.slots[pool]), table.pages[:size], contexts, lengths)
        segments = tuple(Segment(row, 1, 0) for row in range(size))
        token_ids, positions = view(places.token_ids), view(places.positions)
        return Batch(token_ids, positions, segments, starts, tables, self._nobody, None)


def table_of(work: SequenceInput, pool: PoolName) -> list[int]:
    """Return a sequence's pages in a pool."""
    return work.pages.global_pages if pool == "global" else work.pages.local_pages


def table_widths(model: Model, cache: KvCache) -> dict[PoolName, int]:
    """Return the most pages of one sequence in each of the pools that a model has."""
    shape = cache.shape
    most = shape.pages_for(model.config.text.max_positions)
    widths: dict[PoolName, int] = {"global": min(shape.global_pages, most)}
    if shape.chunk is not None:
        widths["local"] = min(shape.local_pages, shape.pages_for(shape.chunk))
    return widths


def void(_: object) -> None:
    """Drop a result."""
