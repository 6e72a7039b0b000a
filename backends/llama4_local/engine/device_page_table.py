"""Page tables of steps of a fixed shape: they stay on the device, and only their changes are sent."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from llama4_local.cache.page_table import NULL_PAGE
from llama4_local.ops.batch import pages_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from torch import Tensor

    from llama4_local.cache.page_table import PoolName
    from llama4_local.engine.pinned_buffer import BufferRegion, PinnedBuffer
    from llama4_local.ops.batch import SequenceInput

    TableChanges = Mapping[PoolName, tuple[BufferRegion, BufferRegion]]  # indices of each flat table, and their pages


class DevicePageTable:
    """The tables of one pool, a row for each sequence of a step.

    Args:
        rows: Most sequences.
        width: Most pages of one.
        device: Where the table lies.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.pages = torch.full((rows, width), NULL_PAGE, dtype=torch.int64, device=device)
        self._width = width
        self._sent: list[list[int]] = [[] for _ in range(rows)]

    def changes(self, rows: Sequence[list[int]]) -> tuple[list[int], list[int]]:
        """Record the rows' new content; return the indices of the flat table that change, and their pages."""
        indices: list[int] = []
        pages: list[int] = []
        for row, own in enumerate(rows):
            sent = self._sent[row]
            if sent == own:
                continue
            kept = len(sent) if own[: len(sent)] == sent else 0
            first = row * self._width
            indices += range(first + kept, first + len(own))
            pages += own[kept:]
            self._sent[row] = list(own)
        return indices, pages

    def write(self, indices: Tensor, pages: Tensor) -> None:
        """Write changes: both [count], int64, on the device."""
        self.pages.view(-1).index_copy_(0, indices, pages)

    def forget(self) -> None:
        """Send every row anew: recorded changes may not have arrived."""
        self._sent = [[] for _ in self._sent]


class DevicePageTables:
    """The tables of all pools.

    Args:
        widths: Most pages of a sequence in each pool.
        rows: Most sequences of a step, padding ones among them.
        device: Where the tables lie.
    """

    def __init__(self, widths: Mapping[PoolName, int], rows: int, device: torch.device) -> None:
        self.widths = widths
        self._tables: dict[PoolName, DevicePageTable] = {
            pool: DevicePageTable(rows, width, device) for pool, width in widths.items()
        }

    def pages(self, pool: PoolName, rows: int) -> Tensor:
        """Return the first rows of a pool's table, at an address that stays."""
        return self._tables[pool].pages[:rows]

    def hold(self, inputs: Sequence[SequenceInput]) -> bool:
        """Whether the pages of all sequences have room in a row."""
        return all(len(pages_of(each, pool)) <= width for each in inputs for pool, width in self.widths.items())

    def put(self, buffer: PinnedBuffer, inputs: Sequence[SequenceInput], padding: Sequence[int]) -> TableChanges:
        """Put a step's changes into the buffer, and note them as made.

        Args:
            buffer: Takes the changes.
            inputs: The sequences, a row each.
            padding: The rows behind them: how often the null page stands in each.
        """
        filled = [[NULL_PAGE] * count for count in padding]
        changes: dict[PoolName, tuple[BufferRegion, BufferRegion]] = {}
        with self._forgetting():
            for pool, table in self._tables.items():
                indices, pages = table.changes([*(pages_of(each, pool) for each in inputs), *filled])
                if indices:
                    changes[pool] = buffer.put(indices), buffer.put(pages)
        return changes

    def write(self, buffer: PinnedBuffer, changes: TableChanges) -> None:
        """Write changes that the buffer holds on the device."""
        with self._forgetting():
            for pool, (indices, pages) in changes.items():
                self._tables[pool].write(buffer.view(indices), buffer.view(pages))

    def send(self, buffer: PinnedBuffer, inputs: Sequence[SequenceInput], padding: Sequence[int]) -> None:
        """Send a step's inputs, all of them put into the buffer before, and write what changes; see `put`."""
        changes = self.put(buffer, inputs, padding)
        with self._forgetting():
            buffer.send()
        self.write(buffer, changes)

    @contextmanager
    def _forgetting(self) -> Generator[None]:
        """Send every row anew where the block fails."""
        try:
            yield
        except BaseException:
            for table in self._tables.values():
                table.forget()
            raise
