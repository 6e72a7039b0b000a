"""`llama4 bench`: time to the first token and tokens per second, at given numbers of streams."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
from rich.console import Console
from rich.table import Table

from llama4sdk.client import Llama4
from llama4sdk.errors import InvalidRequest, LlamaError
from llama4sdk.sampling import Sampling

if TYPE_CHECKING:
    from llama4sdk.backend import Backend
    from llama4sdk.reply import Reply


def measure(name: str | Backend, options: dict[str, Any], *, concurrency: str, tokens: int, prompt: str) -> None:
    """Measure and print a table.

    Raises:
        LlamaError: The backend cannot serve, or a request fails.
    """
    try:
        widths = [int(each) for each in concurrency.split(",")]
    except ValueError:
        widths = [0]
    if min(widths) < 1:
        raise InvalidRequest(f"--concurrency is a list of whole numbers, as in 1,8; got {concurrency[:80]!r}.")
    Sampling(max_tokens=tokens)  # refuses what is no number of tokens, before a model is loaded
    table = Table("streams", "first token, median", "at most", "tokens/s of a stream", "tokens/s of all")

    async def run() -> None:
        async with Llama4(name, guards=None, **options) as llama:
            await llama.ready()
            await llama.chat(prompt, sampling=Sampling(max_tokens=1))
            for width in widths:
                table.add_row(str(width), *(await figures_of(llama, prompt, width, tokens)).shown())

    anyio.run(run)
    Console(highlight=False).print(table)


class Figures(NamedTuple):
    """The figures of some streams at once.

    Args:
        first: Median of the seconds to the first token.
        slowest_first: The longest of them.
        of_a_stream: Median of the tokens per second of a stream, from its first token on.
        of_all: Tokens of all streams by the seconds from the first request to the last end.
    """

    first: float
    slowest_first: float
    of_a_stream: float
    of_all: float

    def shown(self) -> tuple[str, ...]:
        """Return the cells of a table."""
        return (
            f"{self.first * 1000:.0f} ms",
            f"{self.slowest_first * 1000:.0f} ms",
            f"{self.of_a_stream:.1f}",
            f"{self.of_all:.1f}",
        )


async def figures_of(llama: Llama4, prompt: str, width: int, tokens: int) -> Figures:
    """Ask a question in some streams at once, each with its own seed, and return the figures.

    Raises:
        LlamaError: A request fails; the first one's.
    """
    replies: list[Reply[None]] = []
    failures: list[LlamaError] = []

    async def ask(seed: int) -> None:
        try:
            replies.append(await llama.chat(prompt, sampling=Sampling(max_tokens=tokens, seed=seed)))
        except LlamaError as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for seed in range(width):
            tasks.start_soon(ask, seed)
    if failures:
        raise failures[0]
    seconds = time.perf_counter() - began
    timings = [reply.timing for reply in replies if reply.timing is not None]
    firsts = [timing.first_token for timing in timings if timing.first_token is not None] or [math.nan]
    speeds = [timing.tokens_per_second for timing in timings if timing.tokens_per_second is not None] or [math.nan]
    total = sum(reply.usage.completion_tokens for reply in replies)
    return Figures(statistics.median(firsts), max(firsts), statistics.median(speeds), total / seconds)
