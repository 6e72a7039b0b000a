"""Page tables of steps of a fixed shape: they stay on the device, and only what changed is sent."""

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
        device: Where it lies.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.pages = torch.full((rows, width), NULL_PAGE, dtype=torch.int64, device=device)
        self._width = width
        self._sent: list[list[int]] = [[] for _ in range(rows)]

    def changes(self, rows: Sequence[list[int]]) -> tuple[list[int], list[int]]:
        """Note what the rows hold from now on; return which places of the flat table change, and to what."""
        places: list[int] = []
        pages: list[int] = []
        for row, own in enumerate(rows):
            sent = self._sent[row]
            if sent == own:
                continue
            kept = len(sent) if own[: len(sent)] == sent else 0
            first = row * self._width
            places += range(first + kept, first + len(own))
            pages += own[kept:]
            self._sent[row] = list(own)
        return places, pages

    def write(self, places: Tensor, pages: Tensor) -> None:
        """Make changes: both [count], int64, on the device."""
        self.pages.view(-1).index_copy_(0, places, pages)

    def forget(self) -> None:
        """Take nothing for granted any more: what was noted may not have arrived."""
        self._sent = [[] for _ in self._sent]
