"""Calls beside requests that wrappers pass on: prompts to be scored, sessions, readiness and load."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from llama4sdk.backend import BackendLoad, BecomesReady, CountsRunning, ReportsLoad
from llama4sdk.errors import InvalidRequest, LlamaError, Overloaded
from llama4sdk.routing.policy import tells_of_health
from llama4sdk.stream import one_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from llama4sdk.routing.members import Member, Members

Result = TypeVar("Result")


async def ask(member: Member, call: Callable[[Any], Awaitable[Result]]) -> Result:
    """Return what a backend answers to a call, which counts as one of its requests.

    Raises:
        LlamaError: It failed, whatever the backend raised.
    """
    member.running += 1
    probes = member.breaker.begin()
    try:
        result = await call(member.backend)
    except Exception as error:
        failure = one_error(error, member.name, "")
        if tells_of_health(failure):
            retry_after = failure.retry_after if isinstance(failure, Overloaded) else None
            member.breaker.failed(anyio.current_time(), retry_after=retry_after)
        if failure is error:
            raise
        raise failure from error
    else:
        member.breaker.succeeded()
        return result
    finally:
        member.release()
        if probes:
            member.breaker.left()


async def ask_in_turn(
    members: Members,
    order: Sequence[Member],
    able: Callable[[Member], bool],
    call: Callable[[Any], Awaitable[Result]],
    *,
    goes_on: Callable[[LlamaError], bool],
    refusal: str,
) -> Result:
    """Return what the first backend answers that can, and does not fail.

    Args:
        members: The wrapper's backends.
        order: Those that are asked, in turn.
        able: Whether a backend takes such calls.
        call: The call.
        goes_on: Whether the next one is asked after an error.
        refusal: The error's words where none takes such calls.

    Raises:
        InvalidRequest: None takes such calls.
        LlamaError: The last one's error.
    """
    members.check_open()
    candidates = [member for member in order if able(member)]
    if not candidates:
        raise InvalidRequest(refusal, backend=members.capabilities.name)
    now = anyio.current_time()
    awake = [member for member in candidates if member.breaker.admits(now)] or candidates
    for member in awake[:-1]:
        try:
            return await ask(member, call)
        except LlamaError as error:
            if not goes_on(error):
                raise
    return await ask(awake[-1], call)


async def become_ready(members: Members) -> None:
    """Wait until every backend has loaded its model, or failed to.

    Raises:
        LlamaError: The first one's error, where no backend is left that can serve.
    """
    members.check_open()
    failures: list[LlamaError] = []

    async def wait(backend: BecomesReady) -> None:
        try:
            await backend.ready()
        except LlamaError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for member in members.usable:
            if isinstance(member.backend, BecomesReady):
                tasks.start_soon(wait, member.backend)
    if failures and len(failures) == len(members.usable):
        raise failures[0]


def load_of(members: Members) -> BackendLoad | None:
    """Return the load of all backends together, ready where one is; None where none reports any."""
    loads = [_load(member) for member in members.usable]
    if not any(known for _, known in loads):
        return None
    pages: Counter[str] = Counter()
    for load, _ in loads:
        pages.update(load.pages)
    return BackendLoad(
        any(load.ready for load, _ in loads),
        sum(load.running for load, _ in loads),
        sum(load.waiting for load, _ in loads),
        dict(pages),
    )


def _load(member: Member) -> tuple[BackendLoad, bool]:
    """Return a backend's load, and whether it reports it itself; else the requests that it was given are its load."""
    load = member.backend.current_load if isinstance(member.backend, ReportsLoad) else None
    return (load, True) if load is not None else (BackendLoad(ready=True, running=member.running), False)


async def requests_running(members: Members) -> int | None:
    """Return how many requests all backends run; None where one does not tell.

    Raises:
        LlamaError: One cannot be asked.
    """
    members.check_open()
    total = 0
    for member in members.usable:
        count: int | None = None
        if isinstance(member.backend, CountsRunning):
            count = await member.backend.requests_running()
        elif isinstance(member.backend, ReportsLoad) and (load := member.backend.current_load) is not None:
            count = load.running
        if count is None:
            return None
        total += count
    return total
