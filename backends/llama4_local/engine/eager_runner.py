"""Steps that are complete when they return: the CPU, devices without the kernels, and several ranks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from llama4_local.config.invariant import BrokenInvariant
from llama4_local.decoding.sampler import sample, sampling_columns
from llama4_local.decoding.sampling_order import sample_over_ranks
from llama4_local.decoding.token_mask import MaskLookahead
from llama4_local.engine.step_output import StepOutput
from llama4_local.engine.warmup import NO_GRAPHS, run_all, warmup_launches
from llama4_local.model.transformer import forward, sampling_logits
from llama4_local.ops.batch import build_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.rank_graphs import RankGraphs
    from llama4_local.model.transformer import Model
    from llama4_local.ops.batch import SequenceInput


class EagerRunner:
    """Runs each step to its end; token masks are computed in a thread beside the model.

    Args:
        model: The network.
        cache: Its key/value cache.
        graphs: Of steps over ranks.
    """

    def __init__(self, model: Model, cache: KvCache, graphs: RankGraphs | None = None) -> None:
        self._model = model
        self._cache = cache
        self._graphs = graphs
        self._mask_lookahead = MaskLookahead()

    def warm_up(self, progress: Callable[[int, int], None], *, tokens: int, sequences: int) -> None:
        """Capture the graphs, and run steps of all sizes once; see `ModelRunner.warm_up`.

        Args:
            progress: Called with steps done and in all; an exception from it ends the work.
            tokens: Most tokens of a step.
            sequences: Most sequences of a step.
        """
        graphs = self._graphs
        todo = [] if graphs is None else [partial(graphs.add, place) for place in graphs.falling]
        todo += warmup_launches(self, self._model, self._cache, tokens=tokens, sequences=sequences)
        run_all(todo, progress, NO_GRAPHS if graphs is None else graphs.described)

    def launch(
        self,
        inputs: Sequence[SequenceInput],
        rows: Sequence[int],
        states: Sequence[SamplerState],
        *,
        from_previous: bool = False,
    ) -> StepOutput:
        """See `Runner.launch`."""
        if from_previous:
            raise BrokenInvariant("an eager step has no step before it whose tokens only the device has")
        model = self._model
        with self._mask_lookahead.over([(state.mask, state.written) for state in states if state.mask]):
            hidden = self._hidden(inputs)
            sampled = torch.tensor(rows, dtype=torch.int64, device=model.device)
            logits = None if model.ranks else sampling_logits(model, hidden[sampled])
        columns = sampling_columns(states, model.device)
        if logits is not None:
            tokens, reports = sample(model.ops, logits, states, columns)
        else:
            tokens, reports = sample_over_ranks(model, hidden, sampled, states, columns)
        on_host = tokens.cpu()
        if model.ranks is not None:
            model.ranks.check()  # work that waited for a lost rank ends without its numbers
        return StepOutput(on_host, reports=reports)

    def close(self) -> None:
        """End the thread of the token masks, and drop the graphs."""
        self._mask_lookahead.close()
        if self._graphs is not None:
            self._graphs.close()

    def _hidden(self, inputs: Sequence[SequenceInput]) -> Tensor:
        """Run the network over a step; return its last hidden states, [tokens, hidden]."""
        replayed = self._graphs.launch(inputs) if self._graphs else None
        if replayed is not None:
            return replayed
        model = self._model
        batch = build_batch(inputs, image_token_id=model.config.image_token_id, device=model.device)
        return forward(model, batch, self._cache)
