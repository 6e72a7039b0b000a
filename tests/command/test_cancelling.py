"""`llama4 doctor`: whether leaving an answer is seen to stop it, by load, by metrics and by delays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from llama4_http.server_load import running_in
from llama4sdk import Capabilities, Done, Event, Llama4, Request, Started, TextDelta, Usage
from llama4sdk.command import cancelling
from llama4sdk.command.cancelling import cancels
from llama4sdk.server import create_app, running
from llama4sdk.testing import ScriptedBackend
from long_runs import LONG, only_long

WORDS = 30
PAUSE = 0.02  # seconds for each word: 0.6 for the whole answer


class Machine:
    """A server as its clients see it: whether leaving stops the work, how many it answers at once, what it tells.

    Args:
        stops: Whether it ends a request that is left; else it goes on to its end.
        serial: Whether it answers one request at a time.
        counts: Whether it tells how many it runs.
        others: Requests of others that it runs all the time.
    """

    capabilities = Capabilities("machine", "machine")

    def __init__(self, *, stops: bool, serial: bool = False, counts: bool = True, others: int = 0) -> None:
        self._stops = stops
        self._lock = anyio.Semaphore(1 if serial else 100)
        self._counts = counts
        self._others = others
        self._running = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None: ...

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def requests_running(self) -> int | None:
        return self._running + self._others if self._counts else None

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        events = asyncio.Queue[Event]()
        left = anyio.CancelScope()
        words = min(WORDS, request.sampling.max_tokens or WORDS)

        async def work() -> None:
            async with self._lock:
                self._running += 1
                try:
                    with left:
                        events.put_nowait(Started(request.request_id, "machine", "machine"))
                        for _ in range(words):
                            await anyio.sleep(PAUSE)
                            events.put_nowait(TextDelta("word "))
                        events.put_nowait(Done("stop", Usage(1, words)))
                finally:
                    self._running -= 1

        self._tasks.append(asyncio.create_task(work()))
        try:
            yield _until_done(events)
        finally:
            if self._stops:
                left.cancel()


async def _until_done(events: asyncio.Queue[Event]) -> AsyncGenerator[Event]:
    while True:
        event = await events.get()
        yield event
        if isinstance(event, Done):
            return


CASES = [
    (Machine(stops=True), "yes", "/metrics"),
    (Machine(stops=False), "failed", "ran on to its end"),
    (Machine(stops=True, counts=False), "unknown", "several at a time"),
]
MORE = [
    (Machine(stops=True, others=2), "yes", "/metrics"),
    (Machine(stops=True, serial=True, counts=False), "yes", "the next request waited"),
    (Machine(stops=False, serial=True, counts=False), "failed", "as behind one that runs on"),
    (Machine(stops=False, counts=False), "unknown", "several at a time"),
]


@pytest.mark.parametrize(("machine", "verdict", "words"), CASES + (MORE if LONG else []))
async def test_what_can_be_seen_decides(machine: Machine, verdict: str, words: str) -> None:
    async with Llama4(machine) as llama:
        finding = await cancels(llama)
    assert finding.verdict == verdict
    assert words in finding.detail


@only_long("it waits for the end of answers")
async def test_a_request_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "_STOPS_WITHIN", 0.1)
    async with Llama4(Machine(stops=False)) as llama:
        alone = await cancels(llama)
    async with Llama4(Machine(stops=False, others=1)) as llama:
        among_others = await cancels(llama)
    assert (alone.verdict, among_others.verdict) == ("failed", "unknown")


async def test_a_quick_answer_tells_nothing() -> None:
    async with Llama4(ScriptedBackend("one two")) as llama:
        finding = await cancels(llama)
    assert finding.verdict == "unknown"


async def test_our_server_is_seen_to_stop_over_http() -> None:
    script = ScriptedBackend(" word" * WORDS, pause=PAUSE)
    async with Llama4(script) as served, running(create_app(served)) as server, Llama4(f"{server.url}/v1") as llama:
        finding = await cancels(llama)
    assert (finding.verdict, "/metrics" in finding.detail) == ("yes", True)


@pytest.mark.parametrize(
    ("metrics", "number"),
    [
        ('# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="m",engine="0"} 2.0\n', 2),
        ('vllm:num_requests_running{engine="0"} 1.0\nvllm:num_requests_running{engine="1"} 2.0\n', 3),
        ('sglang:num_running_reqs{model_name="m"} 4.0\n', 4),
        ("llamacpp:requests_processing 1\n", 1),
        ('llama4_requests_running 3.0\nllama4_engine_requests{state="running"} 1.0\n', 1),
        ('llama4_engine_requests{state="waiting"} 7.0\nllama4_requests_running 3.0\n', 3),
        ("vllm:num_requests_running_total 9\n", None),
        ("vllm:num_requests_running NaN\n", None),
        ("vllm:num_requests_running +Inf\n", None),
        ("vllm:num_requests_running many\n", None),
        ("<html>vllm:num_requests_running 1</html>", None),
        ("", None),
    ],
)
def test_running_requests_are_read_out_of_metrics(metrics: str, number: int | None) -> None:
    assert running_in(metrics) == number
