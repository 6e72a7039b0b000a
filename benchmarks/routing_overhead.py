"""The CPU time that each wrapper of `llama4sdk.routing` adds to a streamed chunk.

    python benchmarks/routing_overhead.py [--chunks 20000] [--rounds 7] [--out benchmarks/results/routing_overhead.json]

Measured is CPU time of this process (`time.process_time`) per chunk, over a backend that hands out ready events, in
turns within each round; the figure of a wrapper is the median over the rounds of the difference to the backend alone.
The hedged request is measured twice: where the first request wins, and where the second does, whose events are queued.
Fallback is too: around events that keep the deadlines by themselves, as those of `local` and `http` do, and around
others, for each of which it sets a cancel scope.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import anyio

from llama4sdk.backend import Backend, Capabilities
from llama4sdk.events import Done, Event, Started, TextDelta, Usage
from llama4sdk.messages import conversation
from llama4sdk.request import Deadlines, Request
from llama4sdk.routing import Balanced, Fallback, Hedged, Limited


class ReadyEvents(AsyncIterator[Event]):
    """Ready events, with a switch to another task at each, as behind a socket.

    Args:
        request: The request.
        chunks: Text events.
        wait: Seconds before the first.
    """

    def __init__(self, request: Request, chunks: int, wait: float) -> None:
        self._wait = wait
        self._events = itertools.chain(
            [Started(request.request_id, "ready", "ready")],
            itertools.repeat(TextDelta("word "), chunks),
            [Done("stop", Usage(1, chunks))],
        )

    async def __anext__(self) -> Event:
        if self._wait:
            await anyio.sleep(self._wait)
            self._wait = 0.0
        await anyio.lowlevel.checkpoint()
        for event in self._events:
            return event
        raise StopAsyncIteration


class TimedEvents(ReadyEvents):
    """The same, of a backend that keeps the deadlines by itself."""

    def __init__(self, request: Request, chunks: int, wait: float) -> None:
        super().__init__(request, chunks, wait)
        self.kept_deadlines = request.deadlines


class Ready:
    """A backend that hands out ready events.

    Args:
        chunks: Text events of each answer.
        wait: Seconds before the first.
        events: Their class.
    """

    def __init__(self, chunks: int, wait: float = 0.0, events: type[ReadyEvents] = TimedEvents) -> None:
        self.capabilities = Capabilities("ready", "ready", continues="everything")
        self._chunks = chunks
        self._wait = wait
        self._events = events

    async def start(self) -> None:
        """Nothing is to be started."""

    async def aclose(self) -> None:
        """Nothing is held."""

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        yield self._events(request, self._chunks, self._wait)


def runners(chunks: int) -> dict[str, Callable[[], Backend]]:
    """Return what is compared."""
    return {
        "alone": lambda: Ready(chunks),
        "fallback": lambda: Fallback(Ready(chunks), Ready(chunks)),
        "fallback, timed by it": lambda: Fallback(Ready(chunks, events=ReadyEvents), Ready(chunks)),
        "balanced": lambda: Balanced(Ready(chunks), Ready(chunks)),
        "limited": lambda: Limited(Ready(chunks), 60_000, concurrency=8),
        "hedged, first wins": lambda: Hedged(Ready(chunks), Ready(chunks), after=1.0),
        "hedged, second wins": lambda: Hedged(Ready(chunks, 5.0), Ready(chunks), after=0.0),
    }


async def cpu_per_chunk(backend: Backend, chunks: int) -> float:
    """Return µs of CPU time for each chunk of one answer."""
    await backend.start()
    request = Request(conversation("?"), deadlines=Deadlines(total=600))
    begun = time.process_time()
    seen = 0
    async with backend.open(request) as events:
        async for event in events:
            seen += isinstance(event, TextDelta)
    used = time.process_time() - begun
    await backend.aclose()
    if seen != chunks:
        raise SystemExit(f"{seen} chunks instead of {chunks}")
    return used / chunks * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    added: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        used = {
            name: anyio.run(cpu_per_chunk, make(), options.chunks) for name, make in runners(options.chunks).items()
        }
        for name, microseconds in used.items():
            added.setdefault(name, []).append(microseconds - (used["alone"] if name != "alone" else 0.0))
    medians = {name: round(statistics.median(values), 2) for name, values in added.items()}
    for name, microseconds in medians.items():
        print(f"{name:24} {microseconds:6.2f} µs per chunk")
    if options.out:
        report = {
            "unit": "µs of CPU per chunk; beside `alone`, what the wrapper adds",
            "python": platform.python_version(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "anyio": version("anyio"),
            "chunks": options.chunks,
            "rounds": options.rounds,
            "medians": medians,
        }
        options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
