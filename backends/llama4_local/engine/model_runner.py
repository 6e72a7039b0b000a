"""Steps on a device that works beside the host: they are launched, and land when their tokens have arrived.

What the host has to say goes over in one copy, what it hears are the chosen tokens. A step in which every
sequence gets one token is a CUDA graph; all others run as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from llama4_local.decoding.sampler import SampledToken, adjust, reports
from llama4_local.engine.cuda_graphs import Capture, DecodeGraphs, table_of, table_widths
from llama4_local.engine.pinned_buffer import PinnedBuffer
from llama4_local.engine.sampling_batch import SamplingBatch, is_plain, is_ranked
from llama4_local.engine.warmup import choosers, rehearsals
from llama4_local.model.transformer import forward, logits
from llama4_local.ops.batch import Batch, PoolTable, build_batch

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.page_table import PoolName
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.pinned_buffer import BufferRegion
    from llama4_local.model.transformer import Model
    from llama4_local.ops.batch import SequenceInput

_NUMBER = 8  # bytes of the widest number that is sent
_COLUMNS = 16  # numbers for each token and sequence, beside page tables; 12 are needed
_GAPS = 4096  # bytes lost between places


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The tokens of a step on their way to the host.

    Args:
        tokens: [rows], int64, in pinned memory; read it after `arrived`.
        arrived: The device's mark; None where nothing works beside the host.
        reports: Log-probabilities of rows that ask for them.
        feeds: Whether the next step can take these tokens on the device.
    """

    tokens: Tensor
    arrived: torch.cuda.Event | None
    reports: dict[int, tuple[float, tuple[tuple[int, float], ...]]] = field(default_factory=dict)
    feeds: bool = False

    def result(self) -> list[SampledToken]:
        """Wait for the tokens."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return [
            SampledToken(None) if token < 0 else SampledToken(token, *self.reports.get(row, (None, ())))
            for row, token in enumerate(self.tokens.tolist())
        ]


class ModelRunner:
    """Launches steps, at most two at a time.

    Args:
        model: What runs.
        cache: Its cache.
        tokens: Most tokens of a step.
        sequences: Most sequences of a step.
        capture: Makes graphs of steps that only decode; None to run these as they come, too.
    """

    def __init__(self, model: Model, cache: KvCache, *, tokens: int, sequences: int, capture: Capture | None) -> None:
        self._model = model
        self._cache = cache
        self._tokens = tokens
        self._sequences = sequences
        self._widths = table_widths(model, cache)
        tables = 2 * sequences * sum(self._widths.values())  # what is sent of them at most: places and pages
        size = _NUMBER * (_COLUMNS * (tokens + sequences) + tables) + _GAPS
        self._staging = PinnedBuffer(size, model.device)
        cuda = model.device.type == "cuda"
        self._heard = [torch.zeros(sequences, dtype=torch.int64, pin_memory=cuda) for _ in range(2)]
        self._graphs: DecodeGraphs | None = None
        if capture is not None:
            self._graphs = DecodeGraphs(model, cache, self._staging, sequences=sequences, capture=capture)

    def warm_up(self, progress: Callable[[int, int], None]) -> None:
        """Make the graphs, and run steps of all sizes once, so that all is compiled; before the first request.

        Args:
            progress: Called with steps done and in all; whatever it raises ends the work.
        """
        graphs = self._graphs
        todo: list[Callable[[], object]] = (
            [partial(graphs.add, size) for size in reversed(graphs.sizes)] if graphs else []
        )
        for works in rehearsals(self._cache.shape, tokens=self._tokens, sequences=self._sequences):
            todo += [partial(self._rehearse, works, ranked=ranked) for ranked in (False, True)]
        for done, work in enumerate(todo):
            progress(done, len(todo))
            work()
        progress(len(todo), len(todo))

    def launch(
        self, works: Sequence[SequenceInput], due: Sequence[int], rows: Sequence[SamplerState], *, fed: bool = False
    ) -> StepOutput:
        """Start a step and return without waiting for it.

        Args:
            works: The step.
            due: Which of the works are to get their next token.
            rows: Who chooses them.
            fed: The works are the sequences of the step launched last, which `feeds`, in the same order; each
                goes on with the token chosen there, whatever its work says.
        """
        self._staging.begin()
        self._heard.reverse()
        if self._graphs is not None and self._only_decodes(works, due):
            return self._decode(self._graphs, works, rows, fed=fed)
        scores, settings = self._mixed(works, due, rows)
        return self._chosen(scores, settings, rows)

    def _rehearse(self, works: list[SequenceInput], *, ranked: bool) -> None:
        self.launch(works, range(len(works)), choosers(works, ranked=ranked)).result()

    def _only_decodes(self, works: Sequence[SequenceInput], due: Sequence[int]) -> bool:
        return len(due) == len(works) and all(
            len(work.token_ids) == 1
            and work.features is None
            and all(len(table_of(work, pool)) <= width for pool, width in self._widths.items())
            for work in works
        )

    def _decode(
        self, graphs: DecodeGraphs, works: Sequence[SequenceInput], rows: Sequence[SamplerState], *, fed: bool
    ) -> StepOutput:
        scores = graphs.score(works, rows, fed=fed)
        if all(is_plain(row, ahead=int(fed)) for row in rows):
            return replace(self._landing(graphs.choose(len(works), ranked=is_ranked(rows))), feeds=True)
        return self._chosen(scores, graphs.settings(len(works)), rows)

    def _mixed(
        self, works: Sequence[SequenceInput], due: Sequence[int], rows: Sequence[SamplerState]
    ) -> tuple[Tensor, SamplingBatch]:
        """Run a step as it comes; return the scores, [rows, vocab], of those who choose, and their settings."""
        model = self._model
        batch = build_batch(works, image_token_id=model.config.image_token_id)
        last = self._staging.put(batch.last_rows[list(due)].numpy())
        settings = SamplingBatch.put(self._staging, rows, size=len(rows))
        sent = self._sent(batch)
        hidden = forward(model, sent, self._cache)
        scores = logits(model, hidden[self._staging.view(last)])
        if model.config.image_token_id is not None:
            scores[:, model.config.image_token_id] = -torch.inf  # a placeholder without an image means nothing
        return scores, settings

    def _sent(self, batch: Batch) -> Batch:
        """Send a batch, and all that was put before it."""
        put, view = self._staging.put, self._staging.view
        places = {
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
        self._staging.send()
        there: dict[PoolName, PoolTable] = {
            pool: PoolTable(view(slots), view(pages), contexts, view(lengths))
            for pool, (slots, pages, lengths, contexts) in tables.items()
        }
        return replace(batch, tables=there, **{name: view(place) for name, place in places.items()})

    def _chosen(self, scores: Tensor, settings: SamplingBatch, rows: Sequence[SamplerState]) -> StepOutput:
        """Choose from scores, each row in its own way."""
        if not rows:
            return self._landing(torch.zeros(0, dtype=torch.int64, device=scores.device))
        own = settings.views(self._staging, ranked=is_ranked(rows), rows=len(rows))
        tokens = self._model.ops.choose(adjust(scores, rows), *own)
        found = reports(scores, tokens.clamp(min=0), rows)
        return replace(self._landing(tokens), reports=found)

    def _landing(self, tokens: Tensor) -> StepOutput:
        heard = self._heard[0][: len(tokens)]
        heard.copy_(tokens, non_blocking=True)
        if tokens.device.type != "cuda":
            return StepOutput(heard, None)
        arrived = torch.cuda.Event()
        arrived.record()
        return StepOutput(heard, arrived)
