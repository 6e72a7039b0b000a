"""`llama4 bench`: time to the first token and tokens per second, at given numbers of streams."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import anyio
from rich.console import Console
from rich.table import Table

from llama4sdk.client import Llama4
from llama4sdk.errors import InvalidRequest
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
    table = Table("streams", "first token, median", "at most", "tokens/s of a stream", "tokens/s of all")

    async def run() -> None:
        async with Llama4(name, **options) as llama:
            await llama.ready()
            await llama.chat(prompt, sampling=Sampling(max_tokens=1))
            for width in widths:
                began = time.perf_counter()
                replies = await ask_all(llama, prompt, width, tokens)
                table.add_row(*row_of(replies, time.perf_counter() - began))

    anyio.run(run)
    Console(highlight=False).print(table)


async def ask_all(llama: Llama4, prompt: str, width: int, tokens: int) -> list[Reply[None]]:
    """Return the replies of as many requests at once."""
    replies: list[Reply[None]] = []

    async def ask(seed: int) -> None:
        replies.append(await llama.chat(prompt, sampling=Sampling(max_tokens=tokens, seed=seed)))

    async with anyio.create_task_group() as tasks:
        for seed in range(width):
            tasks.start_soon(ask, seed)
    return replies


def row_of(replies: list[Reply[None]], seconds: float) -> tuple[str, ...]:
    """Return the table's row for replies that took so many seconds together."""
    timings = [reply.timing for reply in replies if reply.timing is not None]
    firsts = [timing.first_token for timing in timings if timing.first_token is not None] or [float("nan")]
    speeds = [timing.tokens_per_second for timing in timings if timing.tokens_per_second is not None] or [float("nan")]
    total = sum(reply.usage.completion_tokens for reply in replies)
    return (
        str(len(replies)),
        f"{statistics.median(firsts) * 1000:.0f} ms",
        f"{max(firsts) * 1000:.0f} ms",
        f"{statistics.median(speeds):.1f}",
        f"{total / seconds:.1f}",
    )
