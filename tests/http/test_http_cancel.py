"""Cancellation in every phase: nothing held afterwards, and the next request works."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import httpx
import pytest

from llama4_http import HttpBackend
from llama4sdk.errors import DeadlineExceeded
from llama4sdk.events import TextDelta
from llama4sdk.messages import conversation
from llama4sdk.request import Deadlines, Request
from llama4sdk.testing.faults import FaultServer

PLACES = 4
TURNS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 25, 30, 40, 60, 100)  # of the event loop, before the cancel
PHASES = ("silence", "silence_after_headers", "stall", "slow_headers", "endless_comments")

Cancel = Callable[[random.Random, Callable[[], Awaitable[None]]], Awaitable[None]]


async def ask(backend: HttpBackend) -> None:
    async with backend.open(Request(conversation("Count from 1 to 30."))) as events:
        async for _ in events:
            pass


async def natively(chance: random.Random, work: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(work())
    for _ in range(chance.choice(TURNS)):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def natively_twice(chance: random.Random, work: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(work())
    for _ in range(chance.choice(TURNS)):
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(chance.choice((0, 1, 2, 3))):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def by_scope(chance: random.Random, work: Callable[[], Awaitable[None]]) -> None:
    with anyio.move_on_after(chance.choice((0, 0.001, 0.002, 0.004, 0.01)) * chance.random()):
        await work()


async def cancel_at_random(cancel: Cancel, times: int) -> None:
    chance = random.Random(4)
    async with FaultServer(pause=0.001) as server:
        urls = [server.url] * 4 + [server.url_for(name) for name in PHASES]
        backends = [HttpBackend(url, model="faults", profile="vllm", max_connections=PLACES) for url in urls]
        left = iter(range(times))

        async def worker(backend: HttpBackend) -> None:
            for _ in left:
                await cancel(chance, lambda: ask(backend))

        async with anyio.create_task_group() as tasks:
            for backend in backends:
                tasks.start_soon(worker, backend)
        assert [backend.connections_held for backend in backends] == [0] * len(backends)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(2 * PLACES):
                    tasks.start_soon(ask, backends[0])
        for backend in backends:
            await backend.aclose()
        with anyio.fail_after(20):
            await server.at_rest()


@pytest.mark.parametrize("cancel", [natively, natively_twice, by_scope])
async def test_fault_19_a_thousand_cancels_leave_no_place_held(cancel: Cancel) -> None:
    await cancel_at_random(cancel, 1000)


def test_fault_19_a_thousand_cancels_leave_no_place_held_on_trio() -> None:
    anyio.run(cancel_at_random, by_scope, 1000, backend="trio")


@pytest.mark.parametrize("cancel", [natively, by_scope])
async def test_fault_19_a_callers_own_pool_loses_no_place_either(cancel: Cancel) -> None:
    chance = random.Random(5)
    limits = httpx.Limits(max_connections=PLACES, max_keepalive_connections=PLACES)
    async with FaultServer(pause=0.001) as server, httpx.AsyncClient(limits=limits, timeout=None) as client:
        backend = HttpBackend(server.url, model="faults", profile="vllm", max_connections=PLACES, client=client)
        left = iter(range(300))

        async def worker() -> None:
            for _ in left:
                await cancel(chance, lambda: ask(backend))

        async with anyio.create_task_group() as tasks:
            for _ in range(2 * PLACES):
                tasks.start_soon(worker)
        assert backend.connections_held == 0
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(2 * PLACES):
                    tasks.start_soon(ask, backend)
        await backend.aclose()
        assert not client.is_closed


async def test_a_cancel_closes_the_connection_and_the_server_stops() -> None:
    async with FaultServer(pause=0.002) as server:
        backend = HttpBackend(server.url, model="faults", profile="vllm")
        async with backend.open(Request(conversation("Count from 1 to 100000."))) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
            assert server.answering == 1
        assert backend.connections_held == 0
        with anyio.fail_after(20):
            await server.at_rest()
        await backend.aclose()


async def test_a_cancel_while_connecting_returns_at_once(unused_address: str) -> None:
    backend = HttpBackend(unused_address, model="faults", profile="vllm")
    started = anyio.current_time()
    with anyio.move_on_after(0.1) as scope:
        await ask(backend)
    assert scope.cancelled_caught
    assert anyio.current_time() - started < 3
    assert backend.connections_held == 0
    await backend.aclose()


async def test_the_connect_deadline_names_its_phase(unused_address: str) -> None:
    backend = HttpBackend(unused_address, model="faults", profile="vllm")
    request = Request(conversation("Hello!"), deadlines=Deadlines(connect=0.05, total=5))
    with pytest.raises(DeadlineExceeded) as caught:
        async with backend.open(request) as events:
            async for _ in events:
                pass
    assert caught.value.phase == "connect"
    await backend.aclose()


@pytest.fixture
async def unused_address() -> AsyncGenerator[str]:
    """An address whose connections are never taken: a listener whose queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        for filler in fillers:
            filler.close()


async def test_many_streams_at_once_all_finish() -> None:
    counts: list[int] = []

    async def stream(backend: HttpBackend) -> None:
        count = 0
        async with backend.open(Request(conversation("Count from 1 to 300."))) as events:
            async for event in events:
                count += isinstance(event, TextDelta)
        counts.append(count)

    async with FaultServer() as server:
        backend = HttpBackend(server.url, model="faults", profile="vllm", max_connections=200)
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(stream, backend)
        assert counts == [300] * 20
        assert backend.connections_held == 0
        await backend.aclose()
