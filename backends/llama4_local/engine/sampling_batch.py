"""How the rows of a step choose their tokens, as columns for the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llama4_local.ops.filters import Filters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.pinned_buffer import BufferRegion, PinnedBuffer


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """Where the columns lie, each with a number for every row."""

    temperature: BufferRegion
    top_k: BufferRegion
    top_p: BufferRegion
    min_p: BufferRegion
    seeds: BufferRegion
    steps: BufferRegion

    @classmethod
    def put(cls, staging: PinnedBuffer, rows: Sequence[SamplerState], *, size: int, ahead: int = 0) -> SamplingBatch:
        """Lay the columns out.

        Args:
            staging: Takes them.
            rows: Who chooses.
            size: Rows of the step; those beyond take the likeliest token, which nobody looks at.
            ahead: Tokens that each row is to get from the step before, which is still under way.
        """
        rules = [row.rules for row in rows]
        rest = size - len(rows)
        return cls(
            staging.put([rule.temperature for rule in rules] + [0.0] * rest, np.float32),
            staging.put([rule.top_k for rule in rules] + [0] * rest),
            staging.put([rule.top_p for rule in rules] + [1.0] * rest, np.float64),
            staging.put([rule.min_p for rule in rules] + [0.0] * rest, np.float32),
            staging.put([rule.seed for rule in rules] + [0] * rest),
            staging.put([len(row.written) + ahead for row in rows] + [0] * rest),
        )

    def views(self, staging: PinnedBuffer, *, ranked: bool, rows: int) -> tuple[Filters, Tensor, Tensor]:
        """Return filters, seeds and steps of the first rows, as `Ops.choose` takes them."""
        filters = Filters(
            staging.view(self.temperature)[:rows],
            staging.view(self.top_k)[:rows],
            staging.view(self.top_p)[:rows],
            staging.view(self.min_p)[:rows],
            ranked,
        )
        return filters, staging.view(self.seeds)[:rows], staging.view(self.steps)[:rows]


def is_ranked(rows: Sequence[SamplerState]) -> bool:
    """Whether any row draws among its likeliest tokens only."""
    return any(row.rules.temperature > 0 and (row.rules.top_k > 0 or row.rules.top_p < 1) for row in rows)


def is_plain(row: SamplerState, ahead: int = 0) -> bool:
    """Whether a row's token is chosen by its own settings alone: no penalties, no mask, nothing to report."""
    rules = row.rules
    waits = len(row.written) + ahead < rules.min_tokens
    return not (rules.penalized or row.mask or waits or rules.logprobs is not None)
