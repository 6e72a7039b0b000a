"""Runs a blocking call in a daemon thread that a cancelled caller can leave behind.

anyio's own worker threads are joined at exit on asyncio, so one call that never returns (a template in an endless
loop, a file that is a pipe) would keep the process alive.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar, cast

import anyio
from anyio import from_thread, lowlevel

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def run_in_daemon_thread(function: Callable[[], T]) -> T:
    """Return the function's result, computed in a thread of its own; a cancelled caller stops waiting at once.

    The abandoned thread goes on, and its result is dropped. It never keeps the process from exiting.

    Raises:
        BaseException: Whatever the function raises.
    """
    await lowlevel.checkpoint_if_cancelled()
    token = lowlevel.current_token()
    done = anyio.Event()
    results: list[object] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's task
            failures.append(error)
        try:
            from_thread.run_sync(done.set, token=token)
        except RuntimeError:  # the event loop is gone, and with it the caller
            return

    threading.Thread(target=run, name="llama4sdk worker", daemon=True).start()
    await done.wait()
    if failures:
        try:
            raise failures[0]
        finally:
            failures.clear()
    return cast("T", results[0])
