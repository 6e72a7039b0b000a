"""The seam between the network and the other ranks that compute it, where there are any."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llama4sdk.errors import ServerFault

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from llama4_local.cache.kv_cache import KvCache
    from llama4_local.cache.page_table import PageCopy
    from llama4_local.config.share import Share
    from llama4_local.ops.batch import Batch


class RankLost(ServerFault):
    """A process of a tensor-parallel engine has ended or hangs, so that no later step can succeed."""


class Ranks(Protocol):
    """This rank's part in what all ranks compute together.

    On rank 0 `announce`, `begin`, `scores`, `copy` and those of pages tell the other ranks to do the same.
    """

    @property
    def size(self) -> int:
        """Number of ranks."""
        ...

    @property
    def share(self) -> Share:
        """This rank's place among them."""
        ...

    def announce(
        self, command: str, fields: dict[str, Any], tensors: tuple[Tensor, ...], cache: KvCache | None = None
    ) -> None:
        """Tell the other ranks to do something of this name.

        Args:
            command: The name.
            fields: JSON values.
            tensors: On the CPU.
            cache: The cache that it is about.
        """
        ...

    def gather(self, part: Tensor) -> Tensor:
        """Return every rank's tensor of one shape, [ranks, *shape], in the order of the ranks."""
        ...

    def gathering_into(self, room: Tensor) -> AbstractContextManager[None]:
        """Let `gather` in the block return views of one room, each until the next call.

        Args:
            room: Bytes, as many as all ranks' parts of any gather take.
        """
        ...

    def join(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows of all ranks, those of one behind those of the other.

        Args:
            rows: [count, size], this rank's.
            counts: Rows of each rank, the same on all.
        """
        ...

    def begin(self, batch: Batch, cache: KvCache) -> None:
        """Begin a step over a batch; each rank keeps its own heads of the cache."""
        ...

    def check(self) -> None:
        """Raise where another rank is gone, so that what was computed with it is not used.

        Raises:
            RankLost: One has ended or hangs.
        """
        ...

    def failed(self, error: Exception) -> None:
        """Note that this rank failed within what all compute; no later call succeeds."""
        ...

    def when_lost(self, call: Callable[[], None]) -> None:
        """Call this, from any thread, once a rank is gone."""
        ...

    def scores(self, hidden: Tensor, part: Tensor, vocab_size: int) -> Tensor:
        """Return [rows, vocab] joined from the ranks' parts.

        Args:
            hidden: [rows, hidden], from which the other ranks compute theirs.
            part: [rows, this rank's entries of the vocabulary].
            vocab_size: Entries of the whole vocabulary.
        """
        ...

    def copy(self, cache: KvCache, copies: Iterable[PageCopy]) -> None:
        """Copy pages of the cache; see `KvCache.copy`."""
        ...

    def read_pages(self, cache: KvCache, layer: int, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return keys and values of all heads in pages of a global layer, on the host."""
        ...

    def write_pages(self, cache: KvCache, layer: int, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Write keys and values of all heads to pages of a global layer."""
        ...

    def close(self) -> None:
        """End the other ranks; may be called twice."""
        ...


@contextmanager
def as_one(ranks: Ranks) -> Generator[None]:
    """Run a block that all ranks run alike: where this one fails, the others wait at another place for ever.

    Raises:
        RankLost: In place of any other exception.
    """
    try:
        yield
    except RankLost:
        ranks.check()  # which tells the reason, where it is known
        raise
    except Exception as error:
        ranks.failed(error)
        raise RankLost(
            f"Rank {ranks.share.rank} of the engine failed with {type(error).__name__}: {error}; make a new backend.",
            retryable=False,
        ) from error


@dataclass(frozen=True, slots=True)
class CacheOverRanks:
    """A cache of which each rank has its own heads: page copies, and pages of all heads for sessions.

    Args:
        ranks: The ranks.
        cache: This one's part.
    """

    ranks: Ranks
    cache: KvCache

    def copy(self, copies: Iterable[PageCopy]) -> None:
        """See `KvCache.copy`."""
        self.ranks.copy(self.cache, copies)

    def read(self, layer: int, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See `PageAccess.read`."""
        return self.ranks.read_pages(self.cache, layer, pages)

    def write(self, layer: int, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """See `PageAccess.write`."""
        self.ranks.write_pages(self.cache, layer, pages, keys, values)
