"""Steps that are complete when they return: the CPU, and devices without the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.config.invariant import BrokenInvariant
from llama4_local.decoding.sampler import sample, sampling_columns
from llama4_local.decoding.sampling_order import sample_over_ranks
from llama4_local.decoding.token_mask import MaskLookahead
from llama4_local.engine.step_output import StepOutput
from llama4_local.model.transformer import forward, sampling_logits
from llama4_local.ops.batch import build_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.model.transformer import Model
    from llama4_local.ops.batch import SequenceInput


class EagerRunner:
    """Runs each step to its end; token masks are computed in a thread beside the model.

    Args:
        model: The network.
        cache: Its key/value cache.
    """

    def __init__(self, model: Model, cache: KvCache) -> None:
        self._model = model
        self._cache = cache
        self._mask_lookahead = MaskLookahead()

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
        batch = build_batch(inputs, image_token_id=model.config.image_token_id, device=model.device)
        with self._mask_lookahead.over([(state.mask, state.written) for state in states if state.mask]):
            hidden = forward(model, batch, self._cache)
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
        """End the thread of the token masks."""
        self._mask_lookahead.close()
