"""Ranks as threads of the test's process: the same collectives and commands, without starting programs."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from llama4_local.config.share import Share
from llama4_local.engine.cuda_graphs import Rerun
from llama4_local.model.ranks import RankLost
from llama4_local.parallel.channel import Disconnected, encode
from llama4_local.parallel.coordinator import Coordinator
from llama4_local.parallel.exchange import Exchange
from llama4_local.parallel.follower import Follower
from llama4_local.parallel.loading import ShardSource, load_share, rank_model
from llama4_local.parallel.member import Member
from local.small_checkpoints import saved

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.config.model import ModelConfig
    from llama4_local.engine.cuda_graphs import Capture
    from llama4_local.model.transformer import Model
    from llama4_local.parallel.channel import Message
    from llama4_local.parallel.processes import RankProcesses

T = TypeVar("T")
PATIENCE = 60.0  # seconds


def exchanges(size: int) -> list[Exchange]:
    """Return the connected ends of so many ranks."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(size) as pool:
        started = [pool.submit(Exchange, Share(rank, size), folder, PATIENCE) for rank in range(size)]
        return [each.result() for each in started]


def on_every_rank(ends: list[Exchange], work: Callable[[Share, Exchange], T]) -> list[T]:
    """Return what each rank's thread returns."""
    size = len(ends)
    with ThreadPoolExecutor(size) as pool:
        started = [pool.submit(work, Share(rank, size), end) for rank, end in enumerate(ends)]
        return [each.result() for each in started]


class RankThreads:
    """Stands in for `RankProcesses`: followers in threads, over sockets.

    Args:
        ends: Of all ranks; that of one which is lost is closed, as the end of its process would.
    """

    def __init__(self, ends: list[Exchange]) -> None:
        self._ends = ends
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._calls: list[Callable[[], None]] = []
        self.loss: str | None = None

    def start(self, follower: Follower, end: Exchange) -> None:
        own, theirs = socket.socketpair()
        self._sockets.append(own)
        self._threads.append(threading.Thread(target=self._serve, args=(follower, theirs, end), daemon=True))
        self._threads[-1].start()

    def when_lost(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def lose(self, reason: str) -> None:
        self._lose(reason, self._ends[0])

    def check(self) -> None:
        if self.loss is not None:
            raise RankLost(self.loss, retryable=False)

    def tell(self, message: Message) -> None:
        self.check()
        for each in self._sockets:
            each.sendall(encode(message))

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _serve(self, follower: Follower, commands: socket.socket, end: Exchange) -> None:
        with contextlib.closing(commands), contextlib.suppress(Disconnected):
            try:
                follower.serve(commands)
            except Disconnected:
                raise
            except Exception as error:
                self._lose(f"a rank failed with {type(error).__name__}: {error}", end)

    def _lose(self, reason: str, end: Exchange) -> None:
        if self.loss is None:
            self.loss = reason
            end._group = None  # pyright: ignore[reportPrivateUsage]
            for call in self._calls:
                call()


def model_over_threads(
    config: ModelConfig, size: int, seed: int = 0, *, whole_experts: bool = False, capture: Capture = Rerun
) -> Model:
    """Return rank 0's model of a small network, the other ranks in threads; its `ranks` have to be closed."""
    with tempfile.TemporaryDirectory() as folder:
        source = ShardSource(str(saved(Path(folder), config, seed)))
        shares = [Share(rank, size, whole_experts) for rank in range(size)]
        weights = [load_share(source, share) for share in shares]
        ends = exchanges(size)
        threads = RankThreads(ends)
        build = partial(rank_model, source)
        for share, own, end in list(zip(shares, weights, ends, strict=True))[1:]:
            member = Member(share, end)
            threads.start(Follower(build(own, member, share), member, capture=capture), end)
        ranks = Coordinator(shares[0], ends[0], cast("RankProcesses", threads))
        return build(weights[0], ranks, shares[0])
