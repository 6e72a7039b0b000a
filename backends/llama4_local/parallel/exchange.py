"""The collectives of the ranks, over gloo: each gathers all parts and sums them in the order of the ranks.

A ring would add an element's parts in an order that depends on its place in the buffer, so that a row depended on the
rows beside it.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed
from torch.distributed import ProcessGroupGloo

from llama4_local.model.ranks import RankLost

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import Tensor

    from llama4_local.config.share import Share

STORE_FILE = "store"
_ROWS = 1  # the tag of messages between two ranks


class Exchange:
    """A rank's end of the collectives; every rank makes the same calls in the same order.

    Its group is an object of its own, never torch's global one, so that several engines live in one process.

    Args:
        share: The rank.
        folder: A private folder in which the ranks find each other.
        patience: Seconds that a collective waits for the other ranks.

    Raises:
        RankLost: The others did not come.
    """

    def __init__(self, share: Share, folder: str, patience: float) -> None:
        self.received = 0  # bytes that the other ranks' parts had, so far
        self._share = share
        gloo = cast("Any", ProcessGroupGloo)  # its options are not in torch's type stubs
        options = gloo._Options()
        options._timeout = timedelta(seconds=patience)
        options._threads = 1
        try:
            options._devices = [gloo.create_device(hostname="127.0.0.1")]  # reached from this host alone
            store = cast("Any", torch.distributed).FileStore(str(Path(folder) / STORE_FILE), share.size)
            self._group: Any = gloo(store, share.rank, share.size, options)
            self.total(torch.zeros(1))  # all have read the store after it
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise RankLost(
                f"The ranks of the engine did not find one another over this host's loopback interface: {reason}",
                retryable=False,
            ) from error

    def gather(self, part: Tensor) -> list[Tensor]:
        """Return every rank's part, which all have one shape, in the order of the ranks."""
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self._share.size)]
        self.received += (self._share.size - 1) * part.nbytes
        with _lost():
            self._group.allgather([parts], [part]).wait()
        return parts

    def join(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return all ranks' rows, in the order of the ranks; each row travels once to each other rank, in its own bits.

        Args:
            rows: This rank's, [its count, size].
            counts: Rows of each rank, which all ranks have to agree on.
        """
        joined = rows.new_empty(sum(counts), *rows.shape[1:])
        parts = joined.split(list(counts))
        own = self._share.rank
        parts[own].copy_(rows)
        sent = rows.contiguous()
        others = [rank for rank in range(self._share.size) if rank != own]
        self.received += joined.nbytes - rows.nbytes
        with _lost():
            works = [self._group.recv([parts[rank]], rank, _ROWS) for rank in others if counts[rank]]
            works += [self._group.send([sent], rank, _ROWS) for rank in others if counts[own]]
            for work in works:
                work.wait()
        return joined

    def total(self, part: Tensor) -> Tensor:
        """Return the sum of all parts, in fp32, cast back."""
        parts = self.gather(part)
        result = parts[0].float()
        for other in parts[1:]:
            result = result + other.float()
        return result.to(part.dtype)


@contextmanager
def _lost() -> Generator[None]:
    """Translate the failure of a collective."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost("A rank of the engine has ended or hangs; make a new backend.", retryable=False) from error
