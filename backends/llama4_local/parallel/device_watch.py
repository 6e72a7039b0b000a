"""Tells whether a device still works off what it was given: a kernel that waits for a lost rank never ends."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Mark(Protocol):
    """A place in a device's stream of work."""

    def query(self) -> bool:
        """Whether all work before it is done."""
        ...


class DeviceWatch:
    """Notes when commands begin, and what they leave to the device; asked from another thread.

    Args:
        patience: Seconds that a command, or its work on the device, may take.
        place: Places a mark behind the work given so far.
        clock: Returns seconds.
    """

    def __init__(
        self, patience: float, place: Callable[[], Mark], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience = patience
        self._place = place
        self._clock = clock
        self._began: float | None = None  # of the command that runs
        self._given: deque[tuple[float, Mark]] = deque()

    @contextlib.contextmanager
    def command(self) -> Generator[None]:
        """Watch a command in the block, and what it leaves to the device."""
        self._began = self._clock()
        yield
        self._given.append((self._clock(), self._place()))
        self._began = None

    def works(self) -> bool:
        """Whether the device is there, and no command and no work of one takes longer than is allowed."""
        began = self._began
        try:
            while self._given and self._given[0][1].query():
                self._given.popleft()
        except RuntimeError:  # the device is lost
            return False
        beginnings = ([] if began is None else [began]) + ([self._given[0][0]] if self._given else [])
        return not beginnings or self._clock() - min(beginnings) <= self._patience


def gpu_watch(patience: float) -> DeviceWatch:
    """Return the watch of the current GPU."""
    return DeviceWatch(patience, _mark)


def _mark() -> Mark:
    event = torch.cuda.Event()
    event.record()
    return event
