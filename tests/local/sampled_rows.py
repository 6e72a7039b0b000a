"""Samples a step's rows with the reference, as the CPU path does."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from llama4_local.decoding import sampler
from llama4_local.decoding.sampler import SampledToken, SamplerState, sampled_tokens, sampling_columns
from llama4_local.ops.reference.functions import ReferenceOps


def sample(logits: Tensor, states: Sequence[SamplerState]) -> list[SampledToken]:
    """Return one value for each row of the logits, [rows, vocab]."""
    columns = sampling_columns(states, logits.device)
    return sampled_tokens(*sampler.sample(ReferenceOps(), logits.clone(), states, columns))
