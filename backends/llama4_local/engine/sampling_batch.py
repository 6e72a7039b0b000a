"""A step's sampling parameters as columns in the pinned buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llama4_local.decoding.sampler import SamplingColumns
from llama4_local.ops.filters import Filters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.pinned_buffer import BufferRegion, PinnedBuffer


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """The regions of the columns, each with a number for every row."""

    temperature: BufferRegion
    top_k: BufferRegion
    top_p: BufferRegion
    min_p: BufferRegion
    seeds: BufferRegion
    steps: BufferRegion

    @classmethod
    def put(cls, buffer: PinnedBuffer, states: Sequence[SamplerState], *, size: int, ahead: int = 0) -> SamplingBatch:
        """Write the columns into the buffer.

        Args:
            buffer: Takes them.
            states: The rows that are sampled.
            size: Rows of the step; padding rows are greedy.
            ahead: Tokens that each row gets from the in-flight step before.
        """
        rows = [state.sampling for state in states]
        padding = size - len(rows)
        return cls(
            buffer.put([row.temperature for row in rows] + [0.0] * padding, np.float32),
            buffer.put([row.top_k for row in rows] + [0] * padding),
            buffer.put([row.top_p for row in rows] + [1.0] * padding, np.float64),
            buffer.put([row.min_p for row in rows] + [0.0] * padding, np.float32),
            buffer.put([row.seed for row in rows] + [0] * padding),
            buffer.put([state.count + ahead for state in states] + [0] * padding),
        )

    def columns(self, buffer: PinnedBuffer, *, ranked: bool, rows: int) -> SamplingColumns:
        """Return the first rows of the columns on the device.

        Args:
            buffer: Holds them.
            ranked: See `Filters`.
            rows: How many.
        """
        filters = Filters(
            buffer.view(self.temperature)[:rows],
            buffer.view(self.top_k)[:rows],
            buffer.view(self.top_p)[:rows],
            buffer.view(self.min_p)[:rows],
            ranked,
        )
        return SamplingColumns(filters, buffer.view(self.seeds)[:rows], buffer.view(self.steps)[:rows])
