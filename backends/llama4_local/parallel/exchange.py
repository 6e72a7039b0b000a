"""The collectives of the ranks: all parts are gathered, and summed by each rank in the order of the ranks.

A ring would add an element's parts in an order that depends on its place in the buffer, so that a row depended on the
rows beside it.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from llama4_local.model.ranks import RankLost
from llama4_local.parallel.group import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor

    from llama4_local.config.share import Share

_CPU = torch.device("cpu")
_BEYOND = 5.0  # seconds after the group's own patience, whose error tells more
_LOOK_AGAIN = 0.05  # seconds


def _nothing() -> None:
    """Check nothing."""


class Exchange:
    """A rank's end of the collectives; every rank makes the same calls in the same order.

    Args:
        share: The rank.
        folder: A private folder in which the ranks find each other.
        patience: Seconds that a collective waits for the other ranks.
        device: Where the rank's tensors are.
        check: Called while the ranks meet; its exception ends the waiting.

    Raises:
        RankLost: The others did not come.
    """

    def __init__(
        self,
        share: Share,
        folder: str,
        patience: float,
        device: torch.device = _CPU,
        check: Callable[[], None] = _nothing,
    ) -> None:
        self.received = 0  # bytes that the other ranks' parts had, so far
        self.device = device
        self._share = share
        self._room: Tensor | None = None
        self._may_abort = threading.Lock()  # never released
        self._group: Any = None

        def meet() -> None:
            self._group = connect(share, device, folder, patience)
            self.gather(torch.zeros(1, device=device)).cpu()  # all have read the store after it

        try:
            bounded(meet, patience + _BEYOND, check)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            way = "over this host's loopback interface" if device.type == "cpu" else f"over NCCL, on {device}"
            raise RankLost(
                f"The ranks of the engine did not find one another {way}: {reason}", retryable=False
            ) from error

    def gather(self, part: Tensor) -> Tensor:
        """Return every rank's part, which all have one shape: [ranks, *shape], in the order of the ranks."""
        parts = self._room_for(part)
        self.received += parts.nbytes - part.nbytes
        with _lost():
            self._group._allgather_base(_words(parts), _words(part.contiguous())).wait()
        return parts

    @contextmanager
    def gathering_into(self, room: Tensor) -> Generator[None]:
        """See `Ranks.gathering_into`."""
        self._room = room.view(-1)
        try:
            yield
        finally:
            self._room = None

    def _room_for(self, part: Tensor) -> Tensor:
        shape, size = (self._share.size, *part.shape), self._share.size * part.nbytes
        return part.new_empty(shape) if self._room is None else self._room[:size].view(part.dtype).view(shape)

    def join(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return all ranks' rows, in the order of the ranks; each row travels once to each other rank, in its own bits.

        Args:
            rows: This rank's, [its count, size].
            counts: Rows of each rank, which all ranks have to agree on.
        """
        joined = rows.new_empty(sum(counts), *rows.shape[1:])
        self.received += joined.nbytes - rows.nbytes
        sent, size = rows.repeat(self._share.size, 1), [len(rows)] * self._share.size
        with _lost():
            self._group.alltoall_base(joined, sent, list(counts), size).wait()
        return joined

    def abort(self) -> None:
        """End collectives that wait for a rank which is gone, from any thread, once: gloo's end with its sockets."""
        if self.device.type == "cuda" and self._group is not None and self._may_abort.acquire(blocking=False):
            self._group.abort()


def bounded(work: Callable[[], None], patience: float, check: Callable[[], None]) -> None:
    """Do work that may wait for ever in a library, as NCCL's initialisation does where a rank dies in it.

    It runs in a daemon thread, which is left behind where the work does not end.

    Args:
        work: The work.
        patience: Seconds that it may take.
        check: Called while it runs; its exception is raised at once.

    Raises:
        RuntimeError: It takes longer; or whatever it raises.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="llama4_local meeting", daemon=True)
    thread.start()
    deadline = time.monotonic() + patience
    while thread.is_alive():
        check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"they have not met in {patience:.0f} seconds")
        thread.join(_LOOK_AGAIN)
    if errors:
        raise errors[0]


def _words(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor's bytes: groups carry fewer types than torch has."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)  # one number may have any stride


@contextmanager
def _lost() -> Generator[None]:
    """Translate the failure of a collective."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost("A rank of the engine has ended or hangs; make a new backend.", retryable=False) from error
