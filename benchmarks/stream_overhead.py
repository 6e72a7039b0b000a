"""The cost of streaming through the remote backend, beside other clients of the same loopback server.

    python benchmarks/stream_overhead.py [--chunks 4000] [--rounds 5] [--out benchmarks/results/stream_overhead.json]

Measured is CPU time of this process per streamed chunk (`time.process_time`, user and system), so that a
busy machine changes little; the server runs in a process of its own. Compared, in turns within each round:

    floor            httpx and json alone: bytes → events → dicts, nothing checked
    backend          HttpBackend.open: typed events
    client           Llama4(...).stream: typed events through the whole SDK
    openai create    openai-python's chat.completions.create(stream=True), where it is installed
    openai stream    its chat.completions.stream() events

and, in fresh processes, the time to import, and the peak memory of 200 streams at once.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODEL = "faults"
Runner = Callable[[str, int], Coroutine[Any, Any, int]]


def prompt(chunks: int) -> str:
    """Return what makes the server send so many chunks."""
    return f"Count from 1 to {chunks}."


def body(chunks: int) -> dict[str, Any]:
    """Return the request that every client sends."""
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt(chunks)}]}


async def floor(url: str, chunks: int) -> int:
    """Read the bytes with httpx and parse each event with json."""
    import httpx

    seen, rest = 0, b""
    async with (
        httpx.AsyncClient(timeout=None) as client,
        client.stream("POST", f"{url}/chat/completions", json={**body(chunks), "stream": True}) as response,
    ):
        async for data in response.aiter_bytes():
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                if event.startswith(b"data: {"):
                    choices = json.loads(event[6:])["choices"]
                    seen += bool(choices and choices[0]["delta"].get("content"))
    return seen


async def backend(url: str, chunks: int) -> int:
    """Read typed events from the backend alone."""
    from llama4_http import HttpBackend
    from llama4sdk.events import TextDelta
    from llama4sdk.messages import conversation
    from llama4sdk.request import Request

    remote = HttpBackend(url, model=MODEL, profile="openai-generic")
    seen = 0
    async with remote.open(Request(conversation(prompt(chunks)))) as events:
        async for event in events:
            seen += isinstance(event, TextDelta)
    await remote.aclose()
    return seen


async def client(url: str, chunks: int) -> int:
    """Read typed events through the client."""
    from llama4_http import HttpBackend
    from llama4sdk.client import Llama4
    from llama4sdk.events import TextDelta

    seen = 0
    async with (
        Llama4(HttpBackend(url, model=MODEL, profile="openai-generic")) as llama,
        llama.stream(prompt(chunks)) as stream,
    ):
        async for event in stream:
            seen += isinstance(event, TextDelta)
    return seen


async def openai_create(url: str, chunks: int) -> int:
    """Read chunks with openai-python."""
    import openai

    seen = 0
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as remote:
        stream: Any = await remote.chat.completions.create(**body(chunks), stream=True)
        async for chunk in stream:
            seen += bool(chunk.choices and chunk.choices[0].delta.content)
    return seen


async def openai_stream(url: str, chunks: int) -> int:
    """Read events with openai-python's stream helper."""
    import openai

    seen = 0
    async with (
        openai.AsyncOpenAI(base_url=url, api_key="none") as remote,
        remote.chat.completions.stream(**body(chunks)) as stream,
    ):
        async for event in stream:
            seen += event.type == "content.delta" and bool(event.delta)
    return seen


async def many(url: str, chunks: int, streams: int) -> int:
    """Read many streams at once, each to its end."""
    from llama4_http import HttpBackend
    from llama4sdk.events import TextDelta
    from llama4sdk.messages import conversation
    from llama4sdk.request import Request

    remote = HttpBackend(url, model=MODEL, profile="openai-generic", max_connections=streams)

    async def one() -> int:
        async with remote.open(Request(conversation(prompt(chunks)))) as events:
            return sum([isinstance(event, TextDelta) async for event in events])

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one()) for _ in range(streams)]
    await remote.aclose()
    return sum(task.result() for task in running)


@contextmanager
def serving() -> Generator[str]:
    """Run the loopback server in a process of its own and give its address."""
    command = [sys.executable, "-m", "llama4sdk.testing.faults"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield (server.stdout.readline().strip() if server.stdout else "")
        finally:
            server.terminate()


def per_chunk(runner: Runner, url: str, chunks: int) -> float:
    """Return CPU microseconds per chunk of one run."""
    before = time.process_time()
    seen = asyncio.run(runner(url, chunks))
    if seen != chunks:
        raise SystemExit(f"{runner.__name__} saw {seen} of {chunks} chunks")
    return (time.process_time() - before) / chunks * 1e6


def in_fresh_process(code: str) -> float:
    """Return the number that a piece of code prints, run in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def import_seconds(module: str) -> float:
    """Return CPU seconds that importing a module takes; the least of three."""
    code = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    return min(in_fresh_process(code) for _ in range(3))


def peak_mebibytes(url: str, streams: int, chunks: int) -> float:
    """Return by how much resident memory grows for many streams at once."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = asyncio.run(many(url, chunks, streams))
    if seen != streams * chunks:
        raise SystemExit(f"the streams saw {seen} of {streams * chunks} chunks")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def measure(chunks: int, rounds: int, streams: int) -> dict[str, Any]:
    """Return all figures."""
    runners: list[Runner] = [floor, backend, client]
    has_openai = importlib.util.find_spec("openai") is not None
    if has_openai:
        runners += [openai_create, openai_stream]
    figures: dict[str, list[float]] = {runner.__name__: [] for runner in runners}
    with serving() as url:
        for runner in runners:
            per_chunk(runner, url, 100)  # imports, and whatever is made once
        for _ in range(rounds):
            for runner in runners:
                figures[runner.__name__].append(round(per_chunk(runner, url, chunks), 1))
        memory = peak_mebibytes(url, streams, 2000)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    modules = ["llama4sdk", "llama4_http", "httpx", *(["openai"] if has_openai else [])]
    return {
        "cpu_us_per_chunk": figures,
        "median_us_per_chunk": medians,
        "ratio_to_floor": {name: round(value / medians["floor"], 2) for name, value in medians.items()},
        "ratio_to_openai_create": {
            name: round(value / medians["openai_create"], 2) for name, value in medians.items() if has_openai
        },
        "memory_mib": {"streams": streams, "chunks_each": 2000, "growth": round(memory, 1)},
        "import_cpu_seconds": {module: round(import_seconds(module), 3) for module in modules},
        "chunks": chunks,
        "rounds": rounds,
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {
            name: version(name) for name in ("httpx", "httpcore", "openai", "anyio") if has_openai or name != "openai"
        },
    }


def main() -> None:
    """Measure, print, and write the figures where asked to."""
    parser = argparse.ArgumentParser(description="CPU cost of streaming over HTTP")
    parser.add_argument("--chunks", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.chunks, arguments.rounds, arguments.streams), indent=1)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
