"""Whether `llama4 bench` agrees with an independent measurement: `python -m benchmarks.bench_agreement`.

Both ask nano in the same process, in turn, round by round, for the same numbers of streams and tokens. The other
measurement reads the backend itself, below the client, and takes its own clock: the first text and the end of each
stream, and all tokens by the time of all streams. Figures are medians of the rounds; the exit status is 1 where they
differ by more than `--margin`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import anyio

from llama4sdk import Llama4
from llama4sdk.backend import Backend
from llama4sdk.command.bench import Figures, figures_of
from llama4sdk.events import Done, TextDelta
from llama4sdk.request import Request
from llama4sdk.sampling import Sampling

PROMPT = "Tell me about yourself."


async def by_hand(backend: Backend, width: int, tokens: int) -> Figures:
    """Return first token, tokens per second of a stream, and of all, read from the backend."""
    firsts: list[float] = []
    speeds: list[float] = []
    counts: list[int] = []

    async def one(seed: int) -> None:
        request = Request.of(PROMPT, sampling=Sampling(max_tokens=tokens, seed=seed))
        first = 0.0
        begun = time.perf_counter()
        async with backend.open(request) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    first = first or time.perf_counter()
                if isinstance(event, Done) and event.usage is not None:
                    counts.append(event.usage.completion_tokens)
        firsts.append(first - begun)
        speeds.append((counts[-1] - 1) / (time.perf_counter() - first))

    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for seed in range(width):
            tasks.start_soon(one, seed)
    seconds = time.perf_counter() - begun
    return Figures(statistics.median(firsts), max(firsts), statistics.median(speeds), sum(counts) / seconds)


async def by_command(llama: Llama4, width: int, tokens: int) -> Figures:
    """Return what `llama4 bench` shows."""
    return await figures_of(llama, PROMPT, width, tokens)


def middle(rounds: list[Figures]) -> Figures:
    """Return the medians of some rounds."""
    return Figures(*(statistics.median(column) for column in zip(*rounds, strict=True)))


async def measure(
    widths: list[int], tokens: int, rounds: int, backend: str | Backend = "local"
) -> list[dict[str, Any]]:
    """Return for each number of streams both figures and the largest of their differences."""
    rows: list[dict[str, Any]] = []
    async with Llama4(backend) as llama:
        await llama.ready()
        await llama.chat(PROMPT, sampling=Sampling(max_tokens=1))
        for width in widths:
            command: list[Figures] = []
            hand: list[Figures] = []
            for _ in range(rounds):
                command.append(await by_command(llama, width, tokens))
                hand.append(await by_hand(llama.backend, width, tokens))
            ours, theirs = middle(command), middle(hand)
            differences = [abs(one / other - 1) for one, other in zip(ours, theirs, strict=True)]
            rows.append(
                {
                    "streams": width,
                    "llama4 bench": ours._asdict(),
                    "by hand": theirs._asdict(),
                    "largest difference": round(max(differences), 3),
                }
            )
    return rows


def main() -> None:
    """Measure, print, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--margin", type=float, default=0.15)
    options = parser.parse_args()
    widths = [int(each) for each in options.streams.split(",")]
    rows = anyio.run(measure, widths, options.tokens, options.rounds)
    print(json.dumps(rows, indent=2))
    sys.exit(int(any(row["largest difference"] > options.margin for row in rows)))


if __name__ == "__main__":
    main()
