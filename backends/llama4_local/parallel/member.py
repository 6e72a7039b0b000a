"""A rank's part in what all compute together: the same on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from llama4_local.config.share import Share
from llama4_local.weights.e4m3 import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.page_table import PageCopy
    from llama4_local.ops.batch import Batch
    from llama4_local.parallel.exchange import Exchange


class Member:
    """One rank; see `Ranks`.

    Args:
        share: Its place.
        exchange: Its end of the collectives.
    """

    def __init__(self, share: Share, exchange: Exchange) -> None:
        self._share = share
        self._exchange = exchange

    @property
    def size(self) -> int:
        """See `Ranks.size`."""
        return self._share.size

    @property
    def share(self) -> Share:
        """See `Ranks.share`."""
        return self._share

    def announce(
        self, command: str, fields: dict[str, Any], tensors: tuple[Tensor, ...], cache: KvCache | None = None
    ) -> None:
        """See `Ranks.announce`."""

    def gather(self, part: Tensor) -> Tensor:
        """See `Ranks.gather`."""
        return self._exchange.gather(part)

    def gathering_into(self, room: Tensor) -> AbstractContextManager[None]:
        """See `Ranks.gathering_into`."""
        return self._exchange.gathering_into(room)

    def join(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """See `Ranks.join`."""
        return self._exchange.join(rows, counts)

    def begin(self, batch: Batch, cache: KvCache) -> None:
        """See `Ranks.begin`."""

    def check(self) -> None:
        """See `Ranks.check`; rank 0 ends the others."""

    def failed(self, error: Exception) -> None:
        """See `Ranks.failed`; rank 0 hears of it by the report of the process that ends."""

    def when_lost(self, call: Callable[[], None]) -> None:
        """See `Ranks.when_lost`; rank 0 ends the others."""

    def scores(self, hidden: Tensor, part: Tensor, vocab_size: int) -> Tensor:
        """See `Ranks.scores`."""
        ranges = [Share(rank, self.size).vocabulary(vocab_size) for rank in range(self.size)]
        widths = [stop - start for start, stop in ranges]
        parts = self.gather(pad(part, (0, max(widths) - part.shape[-1])))
        own = [each[:, :width] for each, width in zip(parts, widths, strict=True)]
        return torch.cat(own, dim=-1).to(hidden.dtype)

    def copy(self, cache: KvCache, copies: Iterable[PageCopy]) -> None:
        """See `Ranks.copy`."""
        cache.copy(copies)

    def read_pages(self, cache: KvCache, layer: int, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See `Ranks.read_pages`."""
        keys, values = (
            torch.cat([*self.gather(words(stored)[layer, list(pages)])], dim=2).cpu()
            for stored in cache.storage["global"]
        )
        return keys, values

    def write_pages(self, cache: KvCache, layer: int, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """See `Ranks.write_pages`."""
        start, stop = self._share.range(keys.shape[2])
        for stored, whole in zip(cache.storage["global"], (keys, values), strict=True):
            words(stored)[layer, list(pages)] = whole[:, :, start:stop].to(stored.device)

    def close(self) -> None:
        """See `Ranks.close`."""
