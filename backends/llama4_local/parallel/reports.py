"""A rank's way to report to rank 0: its progress, its heartbeat, its failure."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING, NoReturn

from llama4_local.parallel.channel import Message, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

HEARTBEAT = 0.5  # seconds


class Reports:
    """Reports from any thread of a rank, and ends its process when rank 0's is gone, whatever else it does.

    Args:
        connection: To rank 0.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._parent = os.getppid()
        self._works: Callable[[], bool] = _always
        self.meeting: str | None = None  # a folder that is removed with rank 0

    def beat(self) -> None:
        """Send heartbeats from a thread of their own from now on."""
        threading.Thread(target=self._beat, name="llama4_local heartbeat", daemon=True).start()

    def beat_once(self) -> None:
        """Send one heartbeat; where rank 0 is gone, the process ends."""
        if os.getppid() != self._parent:
            self._leave()
        if self._works():
            self.send(Message("beat"))

    def beat_while(self, works: Callable[[], bool]) -> None:
        """Leave out the heartbeats from now on while this is false."""
        self._works = works

    def send(self, message: Message) -> None:
        """Send a report; without rank 0 the process ends."""
        try:
            with self._lock:
                self._connection.sendall(encode(message))
        except OSError:
            self._leave()

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(HEARTBEAT):
            self.beat_once()

    def _leave(self) -> NoReturn:
        if self.meeting is not None:
            shutil.rmtree(self.meeting, ignore_errors=True)
        os._exit(1)  # a collective that waits for rank 0 would hold back any gentler end


def _always() -> bool:
    return True
