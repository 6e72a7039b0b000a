"""Whether leaving an answer stops the work behind it, as far as it can be seen from here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import anyio

from llama4sdk.backend import CountsRunning, ReportsLoad
from llama4sdk.command.finding import PATIENCE, Finding
from llama4sdk.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llama4sdk.client import Llama4

_QUESTION = "Count from 1 to 300."
_LONG = Sampling(max_tokens=1000, temperature=0)
_ONE = Sampling(max_tokens=1, temperature=0)
_STOPS_WITHIN = 5.0  # seconds in which a left request must end
_SHORTEST = 0.4  # seconds of an answer that takes long enough to be left in its middle
_EARLY = 0.6  # of the whole answer's time: what ends before was stopped


async def cancels(llama: Llama4) -> Finding:
    """Leave an answer in its middle, and watch what runs: the backend's load, the server's metrics, else its delays."""
    backend = llama.backend
    if isinstance(backend, ReportsLoad) and backend.current_load is not None:
        reports = backend

        async def load() -> int | None:
            return None if (load := reports.current_load) is None else load.running

        return await _by_count(llama, load, 0, "the backend's load")
    count = backend.requests_running if isinstance(backend, CountsRunning) else None
    before = None if count is None else await count()
    if count is None or before is None:
        return await _by_delay(llama)
    return await _by_count(llama, count, before, "the server's /metrics")


async def _by_count(llama: Llama4, count: Callable[[], Awaitable[int | None]], before: int, where: str) -> Finding:
    whole = await _seconds(llama)
    if whole < _SHORTEST:
        return Finding("unknown", f"left without error; the answer takes only {whole:.2f} s")
    begun = time.perf_counter()
    async with llama.stream(_QUESTION, sampling=_LONG, deadlines=PATIENCE) as stream:
        async for _ in stream.text():
            break
        during = await count()
    if during is None or during <= before:
        return Finding("unknown", f"left without error; the request was not seen in {where}")
    if not await _falls_to(count, before):
        verdict: Literal["unknown", "failed"] = "unknown" if before else "failed"
        others = "; other requests run there" if before else ""
        return Finding(verdict, f"by {where} it still runs {_STOPS_WITHIN:g} s after it was left{others}")
    if time.perf_counter() - begun > _EARLY * whole:
        return Finding("failed", f"by {where} it ran on to its end after it was left")
    return Finding("yes", f"by {where} nothing of it runs after it was left")


async def _falls_to(count: Callable[[], Awaitable[int | None]], before: int) -> bool:
    with anyio.move_on_after(_STOPS_WITHIN):
        while True:
            now = await count()
            if now is not None and now <= before:
                return True
            await anyio.sleep(0.02)
    return False


async def _by_delay(llama: Llama4) -> Finding:
    """Look whether a short request waits for a long one; only a server that answers one at a time tells so much."""
    whole = await _seconds(llama)
    if whole < _SHORTEST:
        return Finding("unknown", f"left without error; the answer takes only {whole:.2f} s")
    beside = await _wait_beside(llama, leave=False)
    if beside < whole / 2:
        return Finding("unknown", "left without error; the server tells no load, and answers several at a time")
    after = await _wait_beside(llama, leave=True)
    if after < beside / 2:
        return Finding("yes", f"the next request waited {after:.2f} s, and {beside:.2f} s behind one that ran on")
    return Finding("failed", f"the next request waited {after:.2f} s, as behind one that runs on")


async def _seconds(llama: Llama4) -> float:
    """Return how long the whole answer takes."""
    begun = time.perf_counter()
    await llama.chat(_QUESTION, sampling=_LONG, deadlines=PATIENCE)
    return time.perf_counter() - begun


async def _wait_beside(llama: Llama4, *, leave: bool) -> float:
    """Return how long a request of one token takes, sent once a long answer has begun, or was left after that."""
    async with llama.stream(_QUESTION, sampling=_LONG, deadlines=PATIENCE) as stream:
        async for _ in stream.text():
            break
        if not leave:
            return await _one(llama)
    return await _one(llama)


async def _one(llama: Llama4) -> float:
    begun = time.perf_counter()
    await llama.chat("Hi.", sampling=_ONE, deadlines=PATIENCE)
    return time.perf_counter() - begun
