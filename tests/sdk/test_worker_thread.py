"""Blocking calls in daemon threads: results, errors, cancelled callers, processes that exit."""

from __future__ import annotations

import subprocess
import sys
import threading

import anyio
import pytest

from llama4sdk.worker_thread import run_in_daemon_thread

_BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@_BACKENDS
def test_the_result_and_the_error_reach_the_caller(backend: str) -> None:
    async def main() -> None:
        assert await run_in_daemon_thread(lambda: 42) == 42
        with pytest.raises(ZeroDivisionError):
            await run_in_daemon_thread(lambda: 1 // 0)

    anyio.run(main, backend=backend)


@_BACKENDS
def test_a_cancelled_caller_leaves_the_thread_behind(backend: str) -> None:
    release = threading.Event()

    async def main() -> None:
        with anyio.move_on_after(0.05) as scope:
            await run_in_daemon_thread(release.wait)
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)
    release.set()


_ENDLESS = """
import anyio, time
from llama4sdk.worker_thread import run_in_daemon_thread

async def main():
    with anyio.move_on_after(0.05):
        await run_in_daemon_thread(lambda: time.sleep(1000))

anyio.run(main)
"""


def test_an_abandoned_call_does_not_keep_the_process_from_exiting() -> None:
    subprocess.run([sys.executable, "-c", _ENDLESS], check=True, timeout=30)
