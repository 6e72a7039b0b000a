"""The server's cost for each streamed chunk: `python -m benchmarks.server_overhead`.

One process serves, under uvicorn on loopback: an application of Starlette's own, whose `StreamingResponse` sends chunks
that are ready bytes, and this project's server in front of a backend whose events are ready. Both send as many chunks,
of the same size. Another process asks both in turn, round by round, and drops the answers. It counts the CPU time of
the serving process for each chunk, the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from llama4sdk import Done, Event, Llama4, Started, TextDelta, Usage
from llama4sdk.backend import Capabilities
from llama4sdk.request import Request
from llama4sdk.server import create_app, running
from llama4sdk.server.chunks import ChatChunks, Head

RESULTS = Path(__file__).with_name("results") / "server_overhead.json"
WORD = " word"


class ReadyBackend:
    """Answers with events that are ready.

    Args:
        chunks: Text events of an answer.
    """

    capabilities = Capabilities("ready", "ready")

    def __init__(self, chunks: int) -> None:
        delta = TextDelta(WORD)
        self._events: list[Event] = [delta] * chunks

    async def start(self) -> None:
        """Do nothing."""

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        """Run a request."""
        yield self._all(request)

    async def aclose(self) -> None:
        """Do nothing."""

    async def _all(self, request: Request) -> AsyncGenerator[Event]:
        yield Started(request.request_id, "ready", "ready")
        for event in self._events:
            yield event
        yield Done("stop", Usage(1, len(self._events)))


def ready_bytes(chunks: int) -> list[bytes]:
    """Return the chunks that the server writes, as bytes."""
    writer = ChatChunks(Head("chat.completion.chunk", "chatcmpl", "0" * 32, "ready"), 0, counted=False)
    return [writer.text(TextDelta(WORD))] * chunks


async def serve(chunks: int, pipe: Connection) -> None:
    """Serve both until the client says that it is done."""
    data = ready_bytes(chunks)

    async def plain(_: HttpRequest) -> Response:
        async def body() -> AsyncGenerator[bytes]:
            for chunk in data:
                yield chunk

        return StreamingResponse(body(), media_type="text/event-stream")

    async def used(_: HttpRequest) -> Response:
        return JSONResponse(time.process_time())

    async with Llama4(ReadyBackend(chunks)) as llama:
        app = Starlette(
            routes=[Route("/plain", plain, methods=["POST"]), Route("/used", used), Mount("/own", create_app(llama))]
        )
        async with running(app) as server:
            pipe.send(server.url)
            await asyncio.to_thread(pipe.recv)


def in_process(chunks: int, pipe: Connection) -> None:
    """Run the serving process."""
    asyncio.run(serve(chunks, pipe))


def seconds_of(client: httpx.Client, path: str, chunks: int, streams: int) -> float:
    """Return the serving process's CPU seconds for each chunk of some streams one after the other."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    before = client.get("/used").json()
    for _ in range(streams):
        with client.stream("POST", path, json=body) as response:
            size = sum(len(data) for data in response.iter_raw())
        if response.status_code != 200 or size < chunks * len(WORD):
            raise RuntimeError(f"{path} answered with status {response.status_code} and {size} bytes")
    return (client.get("/used").json() - before) / (streams * chunks)


def measure(chunks: int, streams: int, rounds: int) -> dict[str, Any]:
    """Return the medians of all rounds, and each round."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=in_process, args=(chunks, theirs))
    process.start()
    rows: list[dict[str, float]] = []
    try:
        with httpx.Client(base_url=ours.recv(), timeout=120, trust_env=False) as client:
            for number in range(rounds + 1):
                row = {
                    "starlette": seconds_of(client, "/plain", chunks, streams) * 1e6,
                    "server": seconds_of(client, "/own/v1/chat/completions", chunks, streams) * 1e6,
                }
                if number:  # the first round warms up
                    rows.append({name: round(value, 2) for name, value in row.items()})
    finally:
        ours.send(None)
        process.join()
    medians = {name: statistics.median(row[name] for row in rows) for name in ("starlette", "server")}
    return {
        "chunks": chunks,
        "streams": streams,
        "cpus": os.cpu_count(),
        "microseconds_per_chunk": medians,
        "ratio": round(medians["server"] / medians["starlette"], 2),
        "rounds": rows,
    }


def main() -> None:
    """Measure, print, and keep the result where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keep", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    result = measure(options.chunks, options.streams, options.rounds)
    print(json.dumps(result, indent=2))
    if options.keep:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
