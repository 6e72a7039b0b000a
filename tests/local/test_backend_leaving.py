"""Leaving, closing, dropping, forking: whatever ends a request or a backend, nothing of it remains."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from llama4_local import LocalBackend
from llama4sdk.errors import InvalidRequest, LlamaError, ServerFault
from llama4sdk.events import Event, Progress, TextDelta
from local.small_backends import ENDLESS, asking, at_rest, events_of, serving, until, until_text


def drop(kept: list[Any]) -> None:
    """Let go of the last reference to what is kept."""
    kept.clear()
    gc.collect()


@pytest.mark.parametrize("phase", ["Started", "queued", "prefill", "text"])
async def test_fault_54_leaving_the_block_in_any_phase_frees_everything(folder: Path, phase: str) -> None:
    async with serving(folder, max_sequences=1, step_tokens=8) as backend:
        async with backend.open(asking("hello " * 30, ENDLESS)) as events:
            async for event in events:
                name = event.phase if isinstance(event, Progress) else type(event).__name__
                if phase in (name, "text" if isinstance(event, TextDelta) else ""):
                    break
        await at_rest(backend)


async def test_fault_54_a_cancel_while_another_request_holds_the_only_place(folder: Path) -> None:
    async with serving(folder, max_sequences=1) as backend:
        async with backend.open(asking(sampling=ENDLESS)) as first:
            await until_text(first)
            with anyio.move_on_after(0.05) as scope:
                async with backend.open(asking("other", ENDLESS)) as second:
                    await until_text(second)
            assert scope.cancelled_caught
            assert await until_text(first)
        await at_rest(backend)


async def test_a_stream_that_is_open_when_the_backend_closes_gets_an_error(folder: Path) -> None:
    async with serving(folder) as backend, backend.open(asking(sampling=ENDLESS)) as events:
        await until_text(events)
        await backend.aclose()
        with pytest.raises(ServerFault, match="closed") as caught:
            async for _ in events:
                pass
        assert not caught.value.retryable
        assert caught.value.request_id


async def test_asking_after_closing_is_an_error(folder: Path) -> None:
    async with serving(folder) as backend:
        await backend.aclose()
        await backend.aclose()
        with pytest.raises(LlamaError, match="closed"):
            await events_of(backend, asking())
        with pytest.raises(LlamaError, match="once"):
            await backend.start()


async def test_asking_before_starting_is_an_error(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="start"):
        await events_of(LocalBackend(folder), asking())


async def test_a_request_runs_once(folder: Path) -> None:
    async with serving(folder) as backend:
        run = backend.open(asking())
        async with run:
            pass
        with pytest.raises(InvalidRequest, match="entered once"):
            await run.__aenter__()


async def test_nothing_remains_after_closing(folder: Path) -> None:
    async with serving(folder) as backend:
        await events_of(backend, asking())
    before = _threads(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with serving(folder) as backend:
        await events_of(backend, asking())
    gc.collect()
    assert (_threads(), len(os.listdir("/proc/self/fd"))) == before  # noqa: PTH208


def _threads() -> list[str]:
    # Threads of the event loops' pools end by themselves when they were idle for some time.
    pools = ("AnyIO", "Trio thread")
    return sorted(thread.name for thread in threading.enumerate() if not any(pool in thread.name for pool in pools))


async def test_fault_61_a_request_dropped_without_leaving_its_block_is_stopped(folder: Path) -> None:
    async with serving(folder) as backend:
        events = await backend.open(asking(sampling=ENDLESS)).__aenter__()
        await until_text(events)
        kept = [events]
        del events
        with pytest.warns(ResourceWarning, match="without leaving its block"):
            drop(kept)
        await at_rest(backend)


async def test_fault_61_a_backend_dropped_without_closing_ends_its_thread(folder: Path) -> None:
    backend = LocalBackend(folder)
    await backend.start()
    await events_of(backend, asking())
    kept = [backend]
    del backend
    with pytest.warns(ResourceWarning, match="without aclose"):
        drop(kept)
    await until(lambda: not any("engine" in name for name in _threads()))


def test_fault_62_a_backend_of_another_loop_is_a_clear_error(folder: Path) -> None:
    async def begin() -> LocalBackend:
        backend = LocalBackend(folder)
        await backend.start()
        await events_of(backend, asking())
        return backend

    async def use(backend: LocalBackend) -> None:
        with pytest.raises(InvalidRequest, match="another event loop"):
            await events_of(backend, asking())
        await backend.aclose()

    asyncio.run(use(asyncio.run(begin())))


def test_fault_62_a_loop_that_is_closed_in_the_middle_ends_the_thread(folder: Path) -> None:
    async def begin() -> tuple[LocalBackend, AsyncIterator[Event]]:
        backend = LocalBackend(folder)
        await backend.start()
        events = await backend.open(asking(sampling=ENDLESS)).__aenter__()
        await until_text(events)
        return backend, events

    backend, events = asyncio.run(begin())
    for thread in threading.enumerate():
        if "engine" in thread.name:
            thread.join(10)
    assert not any("engine" in name for name in _threads())
    kept = [events]
    del events
    with pytest.warns(ResourceWarning, match="without leaving its block"):
        drop(kept)
    asyncio.run(backend.aclose())


_FORKING = """
import asyncio, os, sys
from llama4_local import LocalBackend
from llama4sdk.errors import LlamaError
from llama4sdk.messages import conversation
from llama4sdk.request import Request

async def ask(backend):
    async with backend.open(Request(conversation("hello"))) as events:
        async for _ in events:
            return

async def main():
    backend = LocalBackend(sys.argv[1])
    await backend.start()
    child = os.fork()
    if child == 0:
        try:
            await ask(backend)
        except LlamaError as error:
            await backend.aclose()
            os._exit(42 if "forked" in str(error) else 1)
        os._exit(2)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    await backend.aclose()

asyncio.run(main())
"""


def test_fault_63_a_fork_is_noticed(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKING, str(folder)], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == "42\n"


_LEAVING = """
import asyncio, sys
from llama4_local import LocalBackend
from llama4sdk.messages import conversation
from llama4sdk.request import Request

async def main():
    backend = LocalBackend(sys.argv[1])
    await backend.start()
    events = await backend.open(Request(conversation("hello"))).__aenter__()
    await anext(events); await anext(events)
    kept.append((backend, events))

kept = []
asyncio.run(main())
print("left")
"""


def test_a_program_that_forgets_to_close_still_ends(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LEAVING, str(folder)], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == "left\n"


def test_a_trio_loop_that_has_ended_ends_the_thread(folder: Path) -> None:
    async def begin() -> LocalBackend:
        backend = LocalBackend(folder)
        await backend.start()
        await events_of(backend, asking())
        return backend

    backend = anyio.run(begin, backend="trio")
    anyio.run(backend.aclose, backend="trio")
    assert not any("engine" in name for name in _threads())
