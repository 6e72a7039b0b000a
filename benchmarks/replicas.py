"""Replicas on Ray: tokens per second of one and of two, and the caller's CPU time per token, by ways of transport.

    python benchmarks/replicas.py [--streams 8] [--tokens 200] [--rounds 3] [--out benchmarks/results/replicas.json]

`wire` is the way that `RayBackend` takes: each replica serves HTTP, and the caller reads it with `HttpBackend`.
`server` is the same without Ray: one server in a process, so that `wire` of one replica less `server` is what Ray adds.
`generator` is the other way: a method of the actor yields the events, a few to an item, as a Ray streaming generator.
Each replica has one thread. CPU time is that of this process (`time.process_time`) over all its threads; figures are
medians over the rounds, in which all take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llama4_http import HttpBackend
from llama4_ray import RayBackend, cluster
from llama4sdk import Deadlines, Llama4, Sampling
from llama4sdk.backend import Backend

PROMPT = "Count from 1 to 40."


OPTIONS: dict[str, Any] = {"threads": 1, "context": 2048}


async def measured(backend: Backend, streams: int, tokens: int) -> dict[str, float]:
    """Return tokens per second and µs of CPU per token."""
    sampling = Sampling(temperature=0, max_tokens=tokens, min_tokens=tokens)
    async with Llama4(backend) as llama:

        async def ask(number: int) -> int:
            async with llama.stream(f"{number}. {PROMPT}", sampling=sampling, deadlines=Deadlines(total=300)) as stream:
                return (await stream.result()).usage.completion_tokens

        await asyncio.gather(*(ask(number) for number in range(4)))
        begun, used = time.perf_counter(), time.process_time()
        counts = await asyncio.gather(*(ask(number) for number in range(streams)))
        return _figures(sum(counts), begun, used)


def over_the_wire(replicas: int, streams: int, tokens: int) -> dict[str, float]:
    """Return the figures of `RayBackend`."""
    return asyncio.run(measured(RayBackend("local", replicas=replicas, cpus=0.5, **OPTIONS), streams, tokens))


def of_a_server(streams: int, tokens: int) -> dict[str, float]:
    """Return the figures of one server without Ray."""
    command = [sys.executable, "-m", "llama4sdk", "serve", "local", "--port", "0"]
    command += [word for name, value in OPTIONS.items() for word in ("--option", f"{name}={value}")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            backend = HttpBackend(_address(server) + "/v1", profile="llama4sdk")
            return asyncio.run(measured(backend, streams, tokens))
        finally:
            server.terminate()


def _address(server: subprocess.Popen[str]) -> str:
    for line in server.stdout or ():
        if (address := re.search(r"http://\S+:\d+", line)) is not None:
            return address[0]
    raise SystemExit("the server did not start")


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
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    streams, tokens = options.streams, options.tokens
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "server": lambda: of_a_server(streams, tokens),
        "wire, 1 replica": lambda: over_the_wire(1, streams, tokens),
        "wire, 2 replicas": lambda: over_the_wire(2, streams, tokens),
        "generator, 1 to an item": lambda: asyncio.run(by_generator(2000, 1)),
        "generator, 8 to an item": lambda: asyncio.run(by_generator(2000, 8)),
    }
    rounds: list[dict[str, dict[str, float]]] = []
    for _ in range(options.rounds):
        rounds.append({name: measure() for name, measure in ways.items()})
        print(json.dumps(rounds[-1]), flush=True)
    figures = {
        name: {unit: statistics.median(each[name][unit] for each in rounds) for unit in rounds[0][name]}
        for name in ways
    }
    added = statistics.median(
        each["wire, 1 replica"]["cpu_us_per_token"] - each["server"]["cpu_us_per_token"] for each in rounds
    )
    gain = statistics.median(
        each["wire, 2 replicas"]["tokens_per_second"] / each["wire, 1 replica"]["tokens_per_second"] for each in rounds
    )
    summary = {"ray_adds_cpu_us_per_token": round(added, 1), "two_replicas_to_one": round(gain, 2)}
    print(json.dumps({"medians": figures} | summary, indent=1))
    if options.out:
        about = {"python": platform.python_version(), "cpus": os.cpu_count(), "ray": version("ray")}
        about |= {"streams": streams, "tokens": tokens, "rounds": options.rounds}
        options.out.write_text(json.dumps({**about, "figures": figures} | summary, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
