"""Steps on a device that works beside the host: launched without waiting, complete when their tokens arrive.

A step's inputs go over in one copy, and only the sampled tokens come back. Steps in which every sequence gets one token
are CUDA graphs, and so are those that read up to 512 tokens of prompts; larger ones run eagerly.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from llama4_local.decoding.adjusting import adjust
from llama4_local.decoding.reports import ReportedLogits
from llama4_local.decoding.sampler import sample
from llama4_local.engine.cuda_graphs import Capture, DecodeGraphs, Recording, table_widths
from llama4_local.engine.device_page_table import DevicePageTables
from llama4_local.engine.mixed_graphs import MixedGraphs
from llama4_local.engine.pinned_buffer import PinnedBuffer, bytes_for
from llama4_local.engine.sampling_batch import SamplingBatch
from llama4_local.engine.step_output import StepOutput, UnsampledOutput
from llama4_local.engine.warmup import NO_GRAPHS, captured_shapes, run_all, warmup_launches
from llama4_local.model.transformer import forward, sampling_logits
from llama4_local.ops.batch import Batch, PoolTable, build_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.page_table import PoolName
    from llama4_local.decoding.reports import Reports
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.pinned_buffer import BufferRegion
    from llama4_local.model.transformer import Model
    from llama4_local.ops.batch import SequenceInput


class ModelRunner:
    """Launches steps, at most two at a time.

    Args:
        model: The network.
        cache: Its key/value cache.
        tokens: Most tokens of a step.
        sequences: Most sequences of a step.
        capture: Makes graphs; None to run every step eagerly.
    """

    def __init__(self, model: Model, cache: KvCache, *, tokens: int, sequences: int, capture: Capture | None) -> None:
        self._model = model
        self._cache = cache
        self._tokens = tokens
        self._sequences = sequences
        widths, rows = table_widths(model, cache), sequences + 1  # one of padding
        self._buffer = PinnedBuffer(bytes_for(tokens, rows, widths.values()), model.device)
        cuda = model.device.type == "cuda"
        self._host_tokens = [torch.zeros(tokens, dtype=torch.int64, pin_memory=cuda) for _ in range(2)]
        self._tables = DevicePageTables(widths, rows if capture else 0, model.device)
        self._graphs: DecodeGraphs | None = None
        self._mixed_graphs: MixedGraphs | None = None
        if capture is not None:
            recording = Recording(model, cache, self._buffer, self._tables, capture)
            self._graphs = DecodeGraphs(recording, sequences=sequences)
            self._mixed_graphs = MixedGraphs(recording, self._graphs.logits, tokens=tokens)

    def warm_up(self, progress: Callable[[int, int], None]) -> None:
        """Capture the graphs, and run steps of all sizes once, so that all is compiled; before the first request.

        Args:
            progress: Called with steps done and in all; an exception from it ends the work.
        """
        graphs, mixed = self._graphs, self._mixed_graphs
        todo: list[Callable[[], object]] = []
        if graphs is not None and mixed is not None:
            todo += [partial(mixed.add, shape) for shape in reversed(mixed.shapes)]
            todo += [partial(graphs.add, size) for size in reversed(graphs.sizes)]
        todo += warmup_launches(self, self._model, self._cache, tokens=self._tokens, sequences=self._sequences)
        captured = captured_shapes(graphs.sizes, mixed.shapes[-1].tokens) if graphs and mixed else NO_GRAPHS
        run_all(todo, progress, captured)

    def launch(
        self,
        inputs: Sequence[SequenceInput],
        rows: Sequence[int],
        states: Sequence[SamplerState],
        *,
        from_previous: bool = False,
    ) -> StepOutput | UnsampledOutput:
        """See `Runner.launch`."""
        self._buffer.begin()
        self._host_tokens.reverse()
        if self._graphs is not None and self._only_decodes(inputs, rows):
            return self._decode(self._graphs, inputs, states, from_previous=from_previous)
        mixed = self._mixed_graphs
        shape = mixed.shape_for(inputs, len(rows)) if mixed else None
        scored = mixed.score(shape, inputs, rows, states) if mixed and shape else self._mixed(inputs, rows, states)
        return self._sampled(*scored, states)

    def close(self) -> None:
        """See `Runner.close`; nothing runs beside it but the device."""

    def _only_decodes(self, inputs: Sequence[SequenceInput], rows: Sequence[int]) -> bool:
        one_each = all(len(each.token_ids) == 1 and each.features is None for each in inputs)
        return len(rows) == len(inputs) and one_each and self._tables.hold(inputs)

    def _decode(
        self,
        graphs: DecodeGraphs,
        inputs: Sequence[SequenceInput],
        states: Sequence[SamplerState],
        *,
        from_previous: bool,
    ) -> StepOutput | UnsampledOutput:
        logits = graphs.score(inputs, states, from_previous=from_previous)
        draw = partial(self._sampled_by_graph, graphs, logits, states)
        if from_previous and not all(state.is_plain(ahead=1) for state in states):
            return UnsampledOutput(draw)
        return draw()

    def _sampled_by_graph(self, graphs: DecodeGraphs, logits: Tensor, states: Sequence[SamplerState]) -> StepOutput:
        """Sample a decoding step; its tokens stay on the device for the next one."""
        rules = [state.rules(logits[0]) for state in states]
        reported = ReportedLogits.of(logits, rules)
        adjust(self._model.ops, logits, rules)
        tokens = graphs.sample(len(states), ranked=any(state.sampling.ranked for state in states))
        return self._output(tokens, reported.reports(tokens) if reported else None, feeds_next=True)

    def _mixed(
        self, inputs: Sequence[SequenceInput], rows: Sequence[int], states: Sequence[SamplerState]
    ) -> tuple[Tensor, SamplingBatch]:
        """Run a step eagerly; return the logits, [rows, vocab], of the rows that are sampled, and their parameters."""
        model = self._model
        batch = build_batch(inputs, image_token_id=model.config.image_token_id)
        sampled = self._buffer.put(rows)
        sampling_batch = SamplingBatch.put(self._buffer, states, size=len(states))
        hidden = forward(model, self._sent(batch), self._cache)
        return sampling_logits(model, hidden[self._buffer.view(sampled)]), sampling_batch

    def _sent(self, batch: Batch) -> Batch:
        """Send a batch, and all that was put before it."""
        put, view = self._buffer.put, self._buffer.view
        regions = {
            name: put(getattr(batch, name).numpy()) for name in ("token_ids", "positions", "starts", "image_rows")
        }
        tables: dict[PoolName, tuple[BufferRegion, BufferRegion, BufferRegion, tuple[int, ...]]] = {
            pool: (
                put(table.slots.numpy()),
                put(table.pages.numpy()),
                put(table.context_lengths.numpy()),
                table.contexts,
            )
            for pool, table in batch.tables.items()
        }
        self._buffer.send()
        on_device: dict[PoolName, PoolTable] = {
            pool: PoolTable(view(slots), view(pages), contexts, view(lengths))
            for pool, (slots, pages, lengths, contexts) in tables.items()
        }
        return replace(batch, tables=on_device, **{name: view(region) for name, region in regions.items()})

    def _sampled(self, logits: Tensor, batch: SamplingBatch, states: Sequence[SamplerState]) -> StepOutput:
        """Sample each row by its own parameters."""
        if not states:
            return self._output(torch.zeros(0, dtype=torch.int64, device=logits.device), None)
        ranked = any(state.sampling.ranked for state in states)
        columns = batch.columns(self._buffer, ranked=ranked, rows=len(states))
        return self._output(*sample(self._model.ops, logits, states, columns))

    def _output(self, tokens: Tensor, reports: Reports | None, *, feeds_next: bool = False) -> StepOutput:
        host = self._host_tokens[0][: len(tokens)]
        host.copy_(tokens, non_blocking=True)
        arrived = None
        if tokens.device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
        return StepOutput(host, arrived, reports, feeds_next)
