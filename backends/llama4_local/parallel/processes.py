"""The processes of the other ranks: started by spawn, watched while they live, and never left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama4_local.model.ranks import RankLost
from llama4_local.parallel.channel import Disconnected, Message, encode, receive
from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROGRAM = "llama4_local.parallel.rank_process"
_STARTING = 120.0  # seconds without a heartbeat while a process imports torch, which holds the interpreter
_SERVING = 4.0  # seconds without a heartbeat of a rank that serves
_LEAVING = 5.0  # seconds in which a rank ends by itself


@dataclass(slots=True)
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    commands: socket.socket
    reports: socket.socket
    progress: tuple[int, int] = (0, 0)
    loaded: bool = False


class RankProcesses:
    """The ranks from 1 on; when one is lost, all end, and every later call raises `RankLost`.

    Args:
        orders: For each of them, its first command.
    """

    def __init__(self, orders: list[Mapping[str, Any]]) -> None:
        self._lock = threading.Lock()
        self._loss: str | None = None
        self._unreadable: tuple[str, list[str]] | None = None  # the checkpoint, and what is wrong with it
        self._closed = False
        self._on_loss: list[Callable[[], None]] = []
        self._ranks: list[_Rank] = []
        try:
            self.meeting = tempfile.mkdtemp(prefix=f"llama4-ranks-{os.getpid()}-")  # readable by this user alone
        except OSError as error:
            raise RankLost(f"The ranks need a folder for temporary files: {error}", retryable=False) from error
        try:
            self._start(orders)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [rank.process.pid for rank in self._ranks]

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes that they have read, and in all."""
        return sum(rank.progress[0] for rank in self._ranks), sum(rank.progress[1] for rank in self._ranks)

    @property
    def loaded(self) -> bool:
        """Whether all have loaded their shares.

        Raises:
            CheckpointError: One has met tensors that cannot be served.
            RankLost: One has ended instead.
        """
        self.check()
        return all(rank.loaded for rank in self._ranks)

    def met(self) -> None:
        """Remove the folder in which the ranks found each other."""
        shutil.rmtree(self.meeting, ignore_errors=True)

    def tell(self, message: Message) -> None:
        """Send a command to all of them.

        Raises:
            RankLost: One has ended or hangs.
        """
        self.check()
        data = encode(message)
        for rank in self._ranks:
            self._send(rank, data)

    def when_lost(self, call: Callable[[], None]) -> None:
        """Call this, from any thread, once the first rank is lost and all are killed; the last one given first."""
        with self._lock:
            self._on_loss.append(call)
            lost = self._loss is not None
        if lost:
            call()

    def check(self) -> None:
        """Raise where one is lost.

        Raises:
            CheckpointError: It has met tensors that cannot be served.
            RankLost: It has ended or hangs.
        """
        if self._loss is not None and self._unreadable is not None:
            raise CheckpointError(*self._unreadable)
        if self._loss is not None:
            raise RankLost(self._loss, retryable=False)

    def lose(self, reason: str) -> None:
        """Note the first loss of any rank, and kill all of them, so that no collective waits for one."""
        with self._lock:
            if self._closed or self._loss is not None:
                return
            self._loss = reason
            calls = self._on_loss[::-1]
        for rank in self._ranks:
            rank.process.kill()
        for call in calls:
            call()

    def close(self) -> None:
        """End them and wait for it; may be called twice."""
        self._closed = True
        for rank in self._ranks:
            _shut(rank.commands)
        for rank in self._ranks:
            try:
                rank.process.wait(_LEAVING)
            except subprocess.TimeoutExpired:
                rank.process.kill()
                rank.process.wait()
            _shut(rank.reports)
        self.met()

    def _start(self, orders: list[Mapping[str, Any]]) -> None:
        for number in range(1, len(orders) + 1):
            try:
                self._ranks.append(_spawn(number))
            except OSError as error:
                raise RankLost(f"Rank {number} of the engine cannot be started: {error}", retryable=False) from error
        for rank in self._ranks:
            threading.Thread(target=self._watch, args=(rank,), daemon=True).start()
        for rank, order in zip(self._ranks, orders, strict=True):
            self._send(rank, encode(Message("share", {**order, "meeting": self.meeting})))

    def _send(self, rank: _Rank, data: bytes) -> None:
        try:
            rank.commands.sendall(data)
        except OSError as error:
            self._lose(rank, "has ended")
            raise RankLost(self._loss or "a rank has ended", retryable=False) from error

    def _watch(self, rank: _Rank) -> None:
        """Read a rank's reports until its end."""
        try:
            while True:
                rank.reports.settimeout(_SERVING if rank.loaded else _STARTING)
                report = receive(rank.reports)
                match report.kind:
                    case "loading":
                        rank.progress = (report.fields["bytes"][0], report.fields["bytes"][1])
                    case "loaded":
                        rank.loaded = True
                    case "failed":
                        if report.fields["problems"]:
                            self._unreadable = (report.fields["folder"], report.fields["problems"])
                        self._lose(rank, f"failed with {report.fields['kind']}: {report.fields['text']}")
                    case _:
                        pass  # a heartbeat
        except TimeoutError:
            self._lose(rank, "hangs")
        except (Disconnected, OSError):
            self._lose(rank, "has ended")

    def _lose(self, rank: _Rank, reason: str) -> None:
        self.lose(f"Rank {rank.number} of the engine {reason}; make a new backend.")


def _spawn(number: int) -> _Rank:
    if not sys.executable:
        raise OSError("sys.executable names no Python; leave tensor_parallel= out of a frozen program.")
    own_commands, commands = socket.socketpair()
    own_reports, reports = socket.socketpair()
    with contextlib.ExitStack() as unless_started, commands, reports:
        unless_started.enter_context(own_commands)
        unless_started.enter_context(own_reports)
        numbers = (commands.fileno(), reports.fileno())
        # A session of its own: an interrupt from the terminal goes to the application alone.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM, *map(str, numbers)],
            pass_fds=numbers,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        unless_started.pop_all()
    return _Rank(number, process, own_commands, own_reports)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
