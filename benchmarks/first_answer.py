"""How long a newcomer waits: loading the bundled nano model, and its first token.

Run it with: python -m benchmarks.first_answer [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import torch  # imported first, so that its import is in no figure

from llama4sdk import Llama4, Progress, TextDelta

_QUESTION = "What is 17 + 25?"


async def first_token(llama: Llama4) -> float:
    """Return the seconds until the first text of an answer."""
    begun = time.perf_counter()
    async with llama.stream(_QUESTION) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                return time.perf_counter() - begun
    return float("nan")


async def loaded(llama: Llama4) -> None:
    """Wait until the model has been loaded: its first request leaves the queue."""
    async with llama.stream(_QUESTION) as stream:
        async for event in stream:
            if isinstance(event, Progress) and event.phase == "prefill":
                return


async def one_round() -> tuple[float, float]:
    """Return the seconds of a start up to the first prefill, and of a first token after that."""
    begun = time.perf_counter()
    async with Llama4("local") as llama:
        await loaded(llama)
        loading = time.perf_counter() - begun
        return loading, await first_token(llama)


def main() -> None:
    """Measure some rounds and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = [asyncio.run(one_round()) for _ in range(parser.parse_args().rounds)]
    loading, token = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"start to first prefill  {loading:.2f} s")
    print(f"first token             {token * 1000:.0f} ms")


if __name__ == "__main__":
    main()
