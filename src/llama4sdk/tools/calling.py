"""One call of one tool: arguments checked, time bounded, whatever happens told in a result."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.lowlevel

from llama4sdk.messages import ToolCall, ToolMessage
from llama4sdk.tools.results import Content, UnusableResultError, content_of, error_content
from llama4sdk.tools.schema import BadArgumentsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llama4sdk.tools.declared import Tool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallResult:
    """A call and what came of it.

    Args:
        call: The call, as it was run.
        content: What the model is told.
        value: What the tool returned; None when it failed.
        error: What went wrong, in words; None when nothing did.
        seconds: How long it took.
    """

    call: ToolCall
    content: Content
    value: object = None
    error: str | None = None
    seconds: float = 0.0

    @property
    def message(self) -> ToolMessage:
        """The result as a message of the conversation."""
        return ToolMessage(self.content, tool_call_id=self.call.id, name=self.call.name)


def failed(call: ToolCall, problem: str, seconds: float = 0.0) -> CallResult:
    """Return the result of a call that went wrong, for whatever reason."""
    return CallResult(call, error_content(problem), error=problem, seconds=seconds)


async def run_call(tool: Tool[..., Any], call: ToolCall, *, timeout: float | None, max_result: int) -> CallResult:
    """Run one call. Whatever the tool does ends in a result; only cancellation comes out.

    A function that is no coroutine function runs in a thread of its own. A thread cannot be stopped: after
    a timeout or a cancel it is left alone, and does not keep the process from ending.

    Args:
        tool: The tool.
        call: The call.
        timeout: Seconds that it may take, when the tool has no timeout of its own.
        max_result: Characters of the result, when the tool has no limit of its own.
    """
    begun = anyio.current_time()
    timeout = tool.timeout if tool.timeout is not None else timeout
    problem = f"The tool did not answer within {timeout:g} seconds." if timeout is not None else ""
    with anyio.move_on_after(timeout):
        try:
            value, content = await _outcome(tool, call, tool.max_result or max_result)
            return CallResult(call, content, value, seconds=anyio.current_time() - begun)
        except BadArgumentsError as error:
            problem = f"The arguments do not fit: {error}"
        except UnusableResultError as error:
            problem = str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the model is told, and goes on
            problem = _told(error)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            problem = "The tool gave up: it was cancelled from within."
    return failed(call, problem, anyio.current_time() - begun)


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a thread of its own, which a cancel leaves behind and which blocks no exit."""
    token = anyio.lowlevel.current_token()
    context = contextvars.copy_context()
    done = anyio.Event()
    outcome: list[Callable[[], T]] = []

    def work() -> None:
        try:
            value = context.run(function)
            outcome.append(lambda: value)
        except BaseException as error:  # noqa: BLE001 - handed to the waiting task
            outcome.append(_raiser(error))
        with suppress(RuntimeError):  # the loop has ended meanwhile
            anyio.from_thread.run_sync(done.set, token=token)

    threading.Thread(target=work, name="llama4sdk tool", daemon=True).start()
    await done.wait()
    return outcome[0]()


def _raiser(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


async def _outcome(tool: Tool[..., Any], call: ToolCall, limit: int) -> tuple[object, Content]:
    arguments = tool.validated(call.arguments)
    if _is_async(tool.function):
        value = await tool.function(**arguments)
    else:
        value = await in_thread(lambda: tool.function(**arguments))
        if inspect.isawaitable(value):
            value = await cast("Awaitable[object]", value)
    if isinstance(value, str):
        return value, content_of(value, limit)
    return value, await in_thread(lambda: content_of(value, limit))


def _is_async(function: Callable[..., object]) -> bool:
    inner: object = getattr(function, "func", function)  # of a partial
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def _told(error: BaseException) -> str:
    """Return an error as the model may know it: its kind and its words, never where it came from."""
    try:
        words = str(error).strip()
    except Exception:  # noqa: BLE001 - its words are the tool's code too
        words = ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _is_cancelled() -> bool:
    """Return whether this task is to end, rather than the tool having ended a task of its own."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:  # the loop is not asyncio's
        return False
    return task is not None and task.cancelling() > 0
