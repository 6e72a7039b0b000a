"""One caller that `replicas.py` measures: in a process of its own, so that no other way adds to its CPU time.

It takes a way (`server`, `replicas N` or `generator`), and for each line of standard input measures once and prints the
figures: streams and tokens, or chunks and how many come in an item.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llama4_http import HttpBackend
from llama4_ray import RayBackend, cluster
from llama4sdk import Deadlines, Llama4, Sampling
from llama4sdk.backend import Backend
from llama4sdk.events import TextDelta

PROMPT = "Count from 1 to 40."
OPTIONS: dict[str, Any] = {"threads": 1, "context": 2048}
TICKS = os.sysconf("SC_CLK_TCK")
SERVING = (b"ray::Replica", b"llama4sdk\0serve")  # in the command line of a process that runs the model


class Meter:
    """CPU time of this process, of those below it that run the model, and of the others below it, from now on."""

    def __init__(self) -> None:
        self._begun, self._used, self._below = time.perf_counter(), time.process_time(), below()

    def figures(self, tokens: int) -> dict[str, float]:
        """Return the figures of so many tokens."""
        seconds = time.perf_counter() - self._begun
        cpu = {"caller_cpu_us_per_token": (time.process_time() - self._used) / tokens * 1e6}
        now = below()
        spent = [(serves, used - self._below[pid][1]) for pid, (serves, used) in now.items() if pid in self._below]
        serving, others = ([used for kind, used in spent if kind is serves] for serves in (True, False))
        if serving:
            cpu["server_cpu_us_per_token"] = sum(serving) / tokens * 1e6
            cpu["busiest_server_cores"] = max(serving) / seconds
        cpu["other_cpu_ms_per_second"] = sum(others) / seconds * 1e3
        return {"tokens_per_second": tokens / seconds} | cpu


def below() -> dict[int, tuple[bool, float]]:
    """Return of each process below this one whether it runs the model, and its CPU seconds."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
            used[int(folder.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    mine, processes = {os.getpid()}, dict[int, tuple[bool, float]]()
    while new := {pid for pid, parent in parents.items() if parent in mine and pid not in mine}:
        mine |= new
    for pid in mine - {os.getpid()}:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        processes[pid] = (any(words in command for words in SERVING), used[pid])
    return processes


@asynccontextmanager
async def asking(backend: Backend) -> AsyncGenerator[Callable[[int, int], Awaitable[dict[str, float]]]]:
    """Give the function that lets so many streams ask for so many tokens each."""
    numbers = itertools.count()  # no prompt comes twice, so that none is drawn to a replica by what it has computed
    async with Llama4(backend, guards=None) as llama:

        async def measure(streams: int, tokens: int) -> dict[str, float]:
            sampling = Sampling(temperature=0, max_tokens=tokens, min_tokens=tokens)

            async def ask() -> int:
                prompt = f"{next(numbers)}. {PROMPT}"
                async with llama.stream(prompt, sampling=sampling, deadlines=Deadlines(total=600)) as stream:
                    return (await stream.result()).usage.completion_tokens

            meter = Meter()
            return meter.figures(sum(await asyncio.gather(*(ask() for _ in range(streams)))))

        yield measure


@asynccontextmanager
async def server() -> AsyncGenerator[Callable[[int, int], Awaitable[dict[str, float]]]]:
    """Measure one server without Ray."""
    command = [sys.executable, "-m", "llama4sdk", "serve", "local", "--port", "0", "--no-guards"]
    command += [word for name, value in OPTIONS.items() for word in ("--option", f"{name}={value}")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        try:
            async with asking(HttpBackend(address(process) + "/v1", profile="llama4sdk")) as measure:
                yield measure
        finally:
            process.terminate()


def address(process: subprocess.Popen[str]) -> str:
    """Return the address that a server prints."""
    for line in process.stdout or ():
        if (match := re.search(r"http://\S+:\d+", line)) is not None:
            return match[0]
    raise SystemExit("the server did not start")


class Batches:
    """An actor that yields the events of an answer, several to an item."""

    async def events(self, chunks: int, batch: int) -> Any:
        for begun in range(0, chunks, batch):
            await asyncio.sleep(0)
            yield [TextDelta("word ")] * min(batch, chunks - begun)


@asynccontextmanager
async def generator() -> AsyncGenerator[Callable[[int, int], Awaitable[dict[str, float]]]]:
    """Measure Ray's streaming generators."""
    import ray

    connection = cluster.connect(None)
    actor: Any = ray.remote(Batches).options(num_cpus=0.5).remote()

    async def read(chunks: int, batch: int) -> None:
        async for item in actor.events.options(num_returns="streaming").remote(chunks, batch):
            await item

    async def measure(chunks: int, batch: int) -> dict[str, float]:
        meter = Meter()
        await read(chunks, batch)
        return meter.figures(chunks)

    try:
        await read(100, 1)  # the first time warms up
        yield measure
    finally:
        connection.close()


async def main(way: str, replicas: int) -> None:
    """Measure for each line of standard input."""
    ways = {
        "server": server,
        "generator": generator,
        "replicas": lambda: asking(RayBackend("local", replicas=replicas, cpus=0.5, **OPTIONS)),
    }
    async with ways[way]() as measure:
        print("{}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            figures = await measure(*map(int, line.split()))
            print(json.dumps({name: round(figure, 2) for name, figure in figures.items()}), flush=True)


if __name__ == "__main__":
    way, _, count = sys.argv[1].partition(" ")
    asyncio.run(main(way, int(count or 1)))
