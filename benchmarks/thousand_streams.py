"""A thousand streams of nano at once: all finish, and the process takes no more memory than was planned.

    python -m benchmarks.thousand_streams [--streams 1000] [--memory 256MB] [--dtype float32]

The process is measured after a first answer of a backend that is closed again, so that the libraries are loaded, and
at its peak. In between are weights, cache, workspace, a thousand requests and their readers. Ends with exit code 1 if
a stream does not finish, or the growth exceeds `--memory` and what a stream's Python objects may take.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch  # imported first: its memory is the application's, not the model's

from llama4_local import LocalBackend, plan
from llama4_local.config.options import DType
from llama4_local.planning.sizes import parse_bytes, show_bytes
from llama4sdk import Llama4, Sampling

_CONTEXT = 512
_PER_STREAM = 64 * 1024  # bytes for the objects of a request and its reader: the application's, not the model's


def memory_of_process(name: str) -> int:
    """Return bytes that the process has in memory: now (`VmRSS`) or had at most (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("This benchmark reads /proc/self/status, which Linux has.")


@dataclass(frozen=True)
class Outcome:
    """The results of the streams.

    Args:
        ends: How many ended in which way.
        tokens: Tokens written in all.
        seconds: From the first question to the last answer.
        most_running: Most requests in the engine at once, waiting ones included.
        cache: Bytes of the cache that was allocated.
    """

    ends: Counter[str]
    tokens: int
    seconds: float
    most_running: int
    cache: int


async def ask_once(dtype: DType) -> None:
    """Have every library loaded that an answer needs."""
    async with Llama4(LocalBackend(context=128, max_sequences=1, dtype=dtype)) as llama:
        await llama.chat("Hello!", sampling=Sampling(max_tokens=4))


async def ask_all(streams: int, memory: str, dtype: DType, max_tokens: int) -> Outcome:
    """Open all streams before the first is read, read them all, and count."""
    ends: Counter[str] = Counter()
    tokens = most = 0
    backend = LocalBackend(memory=memory, context=_CONTEXT, dtype=dtype)
    async with Llama4(backend) as llama:
        await llama.chat("Hello!")
        begun = time.perf_counter()

        async def one(number: int) -> None:
            nonlocal tokens, most
            sampling = Sampling(temperature=0, max_tokens=max_tokens)
            async with llama.stream(f"What is {number % 83} + {number % 29}?", sampling=sampling) as stream:
                async for _ in stream.text():
                    most = max(most, backend.load.requests if backend.load else 0)
                ends[str(stream.snapshot.finish_reason)] += 1
                tokens += stream.snapshot.usage.completion_tokens

        async with asyncio.TaskGroup() as tasks:
            for number in range(streams):
                tasks.create_task(one(number))
        seconds = time.perf_counter() - begun
        worker, _ = backend.running()
        cache = await worker.ask(lambda engine: engine.cache_bytes)
    return Outcome(ends, tokens, seconds, most, cache)


def main() -> int:
    """Run it, print the figures, and say whether they are as promised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--memory", default="256MB")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--max-tokens", type=int, default=16)
    given = parser.parse_args()
    asyncio.run(ask_once(given.dtype))
    gc.collect()
    before = memory_of_process("VmRSS")
    outcome = asyncio.run(ask_all(given.streams, given.memory, given.dtype, given.max_tokens))
    growth, limit = memory_of_process("VmHWM") - before, parse_bytes(given.memory)
    streams = given.streams * _PER_STREAM
    planned = plan("nano", memory=given.memory, context=_CONTEXT, sequences=1, dtype=given.dtype)
    finished = outcome.ends["stop"] + outcome.ends["length"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"streams     {finished} of {given.streams} finished, {outcome.most_running} in the engine at once")
    print(f"time        {outcome.seconds:.1f} s, {outcome.tokens / outcome.seconds:.0f} tokens/s")
    print(
        f"planned     {show_bytes(limit)}: weights {show_bytes(planned.weights.total)}, workspace "
        f"{show_bytes(planned.workspace.total)}, cache {show_bytes(outcome.cache)}, "
        f"reserve {show_bytes(planned.reserve)}"
    )
    print(f"process     {show_bytes(before)} before, {show_bytes(growth)} more at its peak")
    print(f"bound       {show_bytes(limit + streams)}: planned, and {show_bytes(streams)} for the streams' objects")
    return int(finished != given.streams or growth > limit + streams)


if __name__ == "__main__":
    sys.exit(main())
