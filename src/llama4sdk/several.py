"""Several answers to one prompt: as many requests, at the same time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import anyio

from llama4sdk.errors import LlamaError
from llama4sdk.events import Usage
from llama4sdk.request import Sampling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llama4sdk.reply import Reply

T = TypeVar("T")


async def several(ask: Callable[[Sampling | None], Awaitable[Reply[T]]], sampling: Sampling | None) -> Reply[T]:
    """Ask as often as `Sampling.n` says; the further answers are the first one's `alternatives`.

    The usage counts all of them. The first failure ends the others and is raised.

    Args:
        ask: Asks once.
        sampling: The parameters; with a seed, each answer has its own.
    """
    if not isinstance(sampling, Sampling) or sampling.n == 1:
        return await ask(sampling)
    replies: dict[int, Reply[T]] = {}
    failures: list[LlamaError] = []

    async def one(place: int, own: Sampling) -> None:
        try:
            replies[place] = await ask(own)
        except LlamaError as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for place in range(sampling.n):
            seed = None if sampling.seed is None else _seed(sampling.seed + place)
            tasks.start_soon(one, place, replace(sampling, n=1, seed=seed))
    if failures:
        raise failures[0]
    ordered = [replies[place] for place in range(sampling.n)]
    usage = sum((reply.usage for reply in ordered), Usage())
    return replace(ordered[0], usage=usage, alternatives=tuple(ordered[1:]))


def _seed(number: int) -> int:
    """Return a seed within int64, round the end where the sum lies beyond it."""
    return number if number < 2**63 else number - 2**64
