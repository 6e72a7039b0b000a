"""Whether `llama4 bench` agrees with a second measurement: `python -m benchmarks.bench_agreement`.

`llama4 bench` reads `reply.timing`, which the client measures. A wrapper around the backend measures the same streams
by its own clock: the first text and the end of each, its tokens, and the time of all. So both see the same answers of
nano, and a busy machine changes neither's share. The exit status is 1 where a figure differs by more than `--margin`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio

from llama4_local import LocalBackend
from llama4sdk import Llama4
from llama4sdk.backend import Backend, BecomesReady, Capabilities
from llama4sdk.command.bench import Figures, figures_of
from llama4sdk.events import Done, Event, TextDelta
from llama4sdk.request import Request
from llama4sdk.sampling import Sampling

PROMPT = "Tell me about yourself."


class Seen(NamedTuple):
    """One stream: when it was asked for, when its first text came, when it ended, and its tokens."""

    begun: float
    first: float
    ended: float
    tokens: int


class Clocked:
    """A backend that notes the times of its streams.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.seen: list[Seen] = []

    @property
    def capabilities(self) -> Capabilities:
        return self._backend.capabilities

    async def start(self) -> None:
        await self._backend.start()

    async def ready(self) -> None:
        if isinstance(self._backend, BecomesReady):
            await self._backend.ready()

    async def aclose(self) -> None:
        await self._backend.aclose()

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        begun = time.perf_counter()
        async with self._backend.open(request) as events:
            yield self._noted(begun, events)

    async def _noted(self, begun: float, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
        first = 0.0
        async for event in events:
            if isinstance(event, TextDelta):
                first = first or time.perf_counter()
            if isinstance(event, Done) and event.usage is not None:
                self.seen.append(Seen(begun, first, time.perf_counter(), event.usage.completion_tokens))
            yield event

    def figures(self) -> Figures:
        """Return the figures of the streams so far, and forget them."""
        seen, self.seen = self.seen, []
        firsts = [each.first - each.begun for each in seen]
        seconds = max(each.ended for each in seen) - min(each.begun for each in seen)
        speeds = [(each.tokens - 1) / (each.ended - each.first) for each in seen]
        total = sum(each.tokens for each in seen)
        return Figures(statistics.median(firsts), max(firsts), statistics.median(speeds), total / seconds)


async def compare(backend: Backend, widths: list[int], tokens: int) -> list[dict[str, Any]]:
    """Return for each number of streams both figures and the largest of their differences."""
    clocked = Clocked(backend)
    rows: list[dict[str, Any]] = []
    async with Llama4(clocked) as llama:
        await llama.ready()
        await llama.chat(PROMPT, sampling=Sampling(max_tokens=1))
        clocked.seen.clear()
        for width in widths:
            ours, theirs = await figures_of(llama, PROMPT, width, tokens), clocked.figures()
            rows.append(
                {
                    "streams": width,
                    "llama4 bench": ours._asdict(),
                    "below the client": theirs._asdict(),
                    "largest difference": max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)),
                }
            )
    return rows


def main() -> None:
    """Measure, print, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--margin", type=float, default=0.05)
    options = parser.parse_args()
    widths = [int(each) for each in options.streams.split(",")]
    rows = anyio.run(compare, LocalBackend(), widths, options.tokens)
    print(json.dumps(rows, indent=2))
    sys.exit(int(any(row["largest difference"] > options.margin for row in rows)))


if __name__ == "__main__":
    main()
