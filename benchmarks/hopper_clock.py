"""Times calls on the GPU, and keeps the time budget of a script."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from hopper_inputs import REHEARSAL

MOST_SECONDS = 2.0  # of replays for one number; slow ones are repeated less often


class Budget:
    """The seconds left for a script, and the work skipped for lack of them.

    Args:
        seconds: For everything.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.skipped: list[str] = []

    @property
    def left(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._end - time.monotonic())

    def allows(self, work: str, seconds: float = 3.0) -> bool:
        """Whether so many seconds are left; if not, the work is recorded as skipped."""
        if self.left >= seconds:
            return True
        self.skipped.append(work)
        print(f"skipped for lack of time: {work}", flush=True)
        return False


def alive() -> bool:
    """Whether the GPU still takes work: an illegal memory access ends this process's CUDA context."""
    if REHEARSAL:
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def one_line(error: BaseException) -> str:
    """Return an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"


def seconds(calls: Sequence[Callable[[], object]], replays: int = 9, *, graph: bool = True) -> float:
    """Return the median time of one of the calls, all of them captured into one graph and replayed."""
    if REHEARSAL:
        return _on_the_host(calls)
    run = captured(calls) if graph else _one_after_the_other(calls)
    run()
    times: list[float] = []
    begun = time.monotonic()
    while len(times) < replays and (len(times) < 3 or time.monotonic() - begun < MOST_SECONDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return median(times) / len(calls)


def captured(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """Return a replay of the calls, each of which runs once outside of the graph first, to be compiled."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay


def _one_after_the_other(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    def run() -> None:
        for call in calls:
            call()

    run()
    torch.cuda.synchronize()
    return run


def _on_the_host(calls: Sequence[Callable[[], object]]) -> float:
    begun = time.perf_counter()
    calls[0]()
    return time.perf_counter() - begun
