"""Page tables of steps of a fixed shape: they stay on the device, and only their changes are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.cache.page_table import NULL_PAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


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
