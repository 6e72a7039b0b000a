"""Rank 0's part: every call that the other ranks take part in is announced to them first."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from llama4_local.model.ranks import as_one
from llama4_local.parallel.channel import Message
from llama4_local.parallel.member import Member
from llama4_local.parallel.step_message import step_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.page_table import PageCopy
    from llama4_local.config.share import Share
    from llama4_local.ops.batch import Batch
    from llama4_local.parallel.exchange import Exchange
    from llama4_local.parallel.processes import RankProcesses


class Coordinator(Member):
    """Rank 0 of an engine, in the application's process; see `Ranks`.

    Args:
        share: Its place.
        exchange: Its end of the collectives.
        processes: The other ranks, which end with it.
    """

    def __init__(self, share: Share, exchange: Exchange, processes: RankProcesses) -> None:
        super().__init__(share, exchange)
        self._processes = processes
        processes.when_lost(exchange.abort)
        self._caches: dict[int, int] = {}  # the numbers of caches that the other ranks have, by identity
        self._next = 0
        self._dropped: deque[int] = deque()  # identities of caches that are gone, from any thread

    def begin(self, batch: Batch, cache: KvCache) -> None:
        """See `Ranks.begin`."""
        self._processes.tell(step_message(batch, self._number(cache)))

    def announce(
        self, command: str, fields: dict[str, Any], tensors: tuple[Tensor, ...], cache: KvCache | None = None
    ) -> None:
        """See `Ranks.announce`."""
        about = {} if cache is None else {"cache": self._number(cache)}
        self._processes.tell(Message(command, {**fields, **about}, tensors))

    def scores(self, hidden: Tensor, part: Tensor, vocab_size: int) -> Tensor:
        """See `Ranks.scores`."""
        self._processes.tell(Message("scores", tensors=(hidden.cpu(),)))
        with as_one(self):
            return super().scores(hidden, part, vocab_size)

    def copy(self, cache: KvCache, copies: Iterable[PageCopy]) -> None:
        """See `Ranks.copy`."""
        copies = list(copies)
        if copies:
            moves = [[each.pool, each.source, each.target] for each in copies]
            self._processes.tell(Message("copy", {"cache": self._number(cache), "copies": moves}))
            with as_one(self):
                super().copy(cache, copies)

    def read_pages(self, cache: KvCache, layer: int, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See `Ranks.read_pages`."""
        self._processes.tell(Message("read", {"cache": self._number(cache), "layer": layer, "pages": list(pages)}))
        with as_one(self):
            return super().read_pages(cache, layer, pages)

    def write_pages(self, cache: KvCache, layer: int, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """See `Ranks.write_pages`."""
        fields = {"cache": self._number(cache), "layer": layer, "pages": list(pages)}
        self._processes.tell(Message("write", fields, (keys, values)))
        with as_one(self):
            super().write_pages(cache, layer, pages, keys, values)

    def failed(self, error: Exception) -> None:
        """See `Ranks.failed`."""
        self._processes.lose(f"Rank 0 of the engine failed with {type(error).__name__}: {error}; make a new backend.")

    def when_lost(self, call: Callable[[], None]) -> None:
        """See `Ranks.when_lost`."""
        self._processes.when_lost(call)

    def check(self) -> None:
        """See `Ranks.check`."""
        self._processes.check()

    def close(self) -> None:
        """See `Ranks.close`."""
        self._processes.close()
        self._exchange.abort()

    def _number(self, cache: KvCache) -> int:
        """Return the number under which the other ranks have a cache; the first time they allocate it."""
        while self._dropped:
            self._processes.tell(Message("drop", {"cache": self._caches.pop(self._dropped.popleft())}))
        identity = id(cache)
        if identity not in self._caches:
            shape = cache.shape
            sizes = [shape.global_pages, shape.local_pages, shape.page_size, shape.chunk]
            dtype = str(cache.storage["global"][0].dtype).removeprefix("torch.")
            self._processes.tell(Message("cache", {"cache": self._next, "shape": sizes, "dtype": dtype}))
            self._caches[identity] = self._next
            self._next += 1
            weakref.finalize(cache, self._dropped.append, identity).atexit = False
        return self._caches[identity]


def threads_each(ranks: int) -> int:
    """Return the threads of torch for each of so many ranks, which all take the same number."""
    return max(1, torch.get_num_threads() // ranks)
