"""Many prompts, a bounded number at a time: outcomes as they finish, or in order."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Generic, Self

import anyio

from llama4sdk.bulk.asking import Asking, Chats
from llama4sdk.bulk.outcome import Answered, Failed, Tally
from llama4sdk.bulk.source import PromptSource
from llama4sdk.bulk.working import AnyOutcome, Work
from llama4sdk.errors import InvalidRequest
from llama4sdk.owned_task import running_loop
from llama4sdk.production import StoppedWhenDropped
from llama4sdk.reply import Answer
from llama4sdk.request import Deadlines, Sampling

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from llama4sdk.messages import Prompt
    from llama4sdk.telemetry.hook import Telemetry


def map_prompts(
    client: Chats,
    prompts: Iterable[Prompt] | AsyncIterable[Prompt],
    *,
    concurrency: int = 8,
    ordered: bool = False,
    journal: str | os.PathLike[str] | None = None,
    output: object = None,
    repair: int = 0,
    sampling: Sampling | None = None,
    deadlines: Deadlines | None = None,
    retries: int = 2,
    progress: bool | None = None,
    telemetry: Telemetry | None = None,
) -> Bulk[Any]:
    """Ask many prompts; return the work, to be entered with `async with` and read with `async for`.

    Args:
        client: Who is asked; `Llama4.map` hands itself in.
        prompts: An iterable of prompts, endless too, or an async one; read only as far as there is room. A
            plain one is read on the event loop, so one that has to wait should be async. An async generator
            is closed when the block is left.
        concurrency: How many are asked at the same time, 1 to 10,000.
        ordered: Whether outcomes come in the order of the prompts rather than as they finish.
        journal: A file that remembers finished prompts, so that the same call goes on after a crash.
        output: The form of a typed answer, as in `Llama4.stream`.
        repair: How often an answer that does not fit may be tried again, 0 to 5.
        sampling: How tokens are chosen.
        deadlines: How long each phase may take; `total` spans all tries of one prompt.
        retries: How often a prompt is asked again after an error that may pass, 0 to 10.
        progress: Whether a progress bar is shown on the terminal; None for one where rich is installed.
        telemetry: Observes each prompt.

    Raises:
        InvalidRequest: For arguments out of range.
    """
    _check_range("concurrency", concurrency, 1, 10_000)
    _check_range("retries", retries, 0, 10)
    _check_range("repair", repair, 0, 5)
    asking = Asking(client, output, repair, sampling or Sampling(), deadlines or Deadlines(), retries, telemetry)
    return Bulk(asking, prompts, concurrency=concurrency, ordered=ordered, journal=journal, progress=progress)


class Bulk(StoppedWhenDropped[Work], AsyncIterator[Answered[Answer] | Failed[Answer]], Generic[Answer]):
    """Bulk work under way; made by `Llama4.map`.

        async with llama.map(prompts) as outcomes:
            async for outcome in outcomes: …

    A prompt that fails becomes an outcome with an error, and ends nothing else. A slow reader holds the work up: at
    most twice as many prompts as may run at once are taken and not yet read. Leaving the block early cancels what
    runs; so does dropping the work within it, with a `ResourceWarning`. An error of the iterable itself is raised
    after the outcomes of what it had given.

    Args:
        asking: How each prompt is asked.
        prompts: The prompts.
        concurrency: How many are asked at the same time.
        ordered: Whether outcomes come in the order of the prompts.
        journal: The journal's path.
        progress: Whether a progress bar is shown.
    """

    def __init__(
        self,
        asking: Asking,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        concurrency: int,
        ordered: bool = False,
        journal: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> None:
        self._what = "map"
        self._production = Work(asking, PromptSource(prompts), concurrency)
        self._ordered = ordered
        self._path = journal
        self._progress = progress
        self._entered = False
        self._early: dict[int, AnyOutcome] = {}
        self._next = 0

    @property
    def tally(self) -> Tally:
        """How far the work is; outcomes that were not read yet count too."""
        return self._production.tally

    async def __aenter__(self) -> Self:
        if self._entered:
            raise InvalidRequest("Bulk work runs once; ask for another with llama.map(…).")
        self._entered = True
        await self._production.start(self._path, self._progress)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._production.home is not None:
            await self._production.stop()
            self._early.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Answered[Answer] | Failed[Answer]:
        if self._production.home is None:
            raise InvalidRequest("Enter the work first: async with llama.map(…) as outcomes.")
        if running_loop() != self._production.home:
            raise InvalidRequest("This work belongs to another event loop; read it in the loop that entered it.")
        outcome = await self._received()
        if outcome is None:
            raise self._production.failure or StopAsyncIteration
        self._next += 1
        self._production.room.release()
        return outcome

    async def _received(self) -> AnyOutcome | None:
        try:
            if not self._ordered:
                return await self._production.outcomes.receive()
            while self._next not in self._early:
                outcome = await self._production.outcomes.receive()
                self._early[outcome.index] = outcome
            return self._early.pop(self._next)
        except anyio.EndOfStream:
            return None
        except anyio.ClosedResourceError:
            raise InvalidRequest("The work's block was left; read it inside the block.") from None


def _check_range(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"{name} is a whole number from {low} to {high}; got {value!r}.")
