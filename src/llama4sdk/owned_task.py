"""Tasks that belong to the event loop and not to the task that starts them.

A task group of the caller's own would tie a stream to the caller's cancel scopes: entered in one task and left in
another, as an async generator that is finalized is, it fails.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from anyio.lowlevel import EventLoopToken, current_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def start_owned(function: Callable[[], Awaitable[None]]) -> object:
    """Run an async function in a task of the event loop's own, beyond the caller's cancel scopes.

    Returns:
        The task, to be kept: asyncio refers to its tasks weakly.

    Args:
        function: Handles every exception itself; a cancellation at the end of the loop passes through.
    """
    if "trio" in sys.modules and not in_asyncio():
        _spawn_in_trio(function)
        return None
    return asyncio.get_running_loop().create_task(_run(function), name="llama4sdk stream")


def running_loop() -> object:
    """Return an object that identifies the running event loop, asyncio's or trio's."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return current_token()


def call_in(loop: object, function: Callable[[], object]) -> None:
    """Call a function soon in an event loop, from any thread; does nothing where the loop has ended.

    Args:
        loop: As `running_loop` returned it.
        function: Returns at once.
    """
    with suppress(RuntimeError):  # the loop is closed; trio's RunFinishedError is one too
        if isinstance(loop, EventLoopToken):
            loop.native_token.run_sync_soon(function)  # type: ignore[attr-defined]  # trio's
        elif isinstance(loop, asyncio.AbstractEventLoop):
            loop.call_soon_threadsafe(function)


def in_asyncio() -> bool:
    """Return whether the running event loop is asyncio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _run(function: Callable[[], Awaitable[None]]) -> None:
    await function()


def _spawn_in_trio(function: Callable[[], Awaitable[None]]) -> None:
    import trio

    async def run() -> None:
        try:
            await function()
        except trio.Cancelled:  # the end of the loop; a system task must not raise it
            return

    trio.lowlevel.spawn_system_task(run, name="llama4sdk stream", context=contextvars.copy_context())
