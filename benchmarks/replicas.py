"""Replicas on Ray: tokens per second of one and of two, and the caller's CPU time per chunk, by two ways of transport.

    python benchmarks/replicas.py [--streams 16] [--tokens 200] [--out benchmarks/results/replicas.json]

`wire` is the way that `RayBackend` takes: each replica serves HTTP, and the caller reads it with `HttpBackend`.
`generator` is the other way: a method of the actor yields the events, a few to an item, as a Ray streaming generator.
Each replica has one thread. CPU time is that of this process (`time.process_time`) over all its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llama4_ray import RayBackend, cluster
from llama4sdk import Deadlines, Llama4, Sampling

PROMPT = "Count from 1 to 40."


async def over_the_wire(replicas: int, streams: int, tokens: int) -> dict[str, float]:
    """Return tokens per second and µs of CPU per token, over `RayBackend`."""
    backend = RayBackend("local", replicas=replicas, cpus=0.5, threads=1, context=2048)
    sampling = Sampling(temperature=0, max_tokens=tokens, min_tokens=tokens)
    async with Llama4(backend) as llama:

        async def ask(number: int) -> int:
            async with llama.stream(f"{number}. {PROMPT}", sampling=sampling, deadlines=Deadlines(total=300)) as stream:
                return (await stream.result()).usage.completion_tokens

        await asyncio.gather(*(ask(number) for number in range(2 * replicas)))
        begun, used = time.perf_counter(), time.process_time()
        counts = await asyncio.gather(*(ask(number) for number in range(streams)))
        return _figures(sum(counts), begun, used)


class Batches:
    """An actor that yields the events of an answer, several to an item."""

    async def events(self, chunks: int, batch: int) -> Any:
        from llama4sdk.events import TextDelta

        for begun in range(0, chunks, batch):
            await asyncio.sleep(0)
            yield [TextDelta("word ")] * min(batch, chunks - begun)


async def by_generator(chunks: int, batch: int) -> dict[str, float]:
    """Return µs of CPU per chunk where Ray carries the events."""
    import ray

    connection = cluster.connect(None)
    try:
        actor: Any = ray.remote(Batches).options(num_cpus=0.5).remote()
        begun, used = 0.0, 0.0
        for count in (chunks // 10, chunks):  # the first time warms up
            begun, used = time.perf_counter(), time.process_time()
            async for item in actor.events.options(num_returns="streaming").remote(count, batch):
                await item
        return _figures(chunks, begun, used)
    finally:
        connection.close()


def _figures(tokens: int, begun: float, used: float) -> dict[str, float]:
    return {
        "tokens_per_second": round(tokens / (time.perf_counter() - begun), 1),
        "cpu_us_per_token": round((time.process_time() - used) / tokens * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for replicas in (1, 2):
        name = f"wire, {replicas} replica{'s' if replicas > 1 else ''}"
        figures[name] = asyncio.run(over_the_wire(replicas, options.streams, options.tokens))
        print(name, figures[name], flush=True)
    for batch in (1, 8):
        name = f"generator, {batch} to an item"
        figures[name] = asyncio.run(by_generator(2000, batch))
        print(name, figures[name], flush=True)
    if options.out:
        about = {"python": platform.python_version(), "cpus": os.cpu_count(), "ray": version("ray")}
        options.out.write_text(json.dumps({**about, "figures": figures}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
