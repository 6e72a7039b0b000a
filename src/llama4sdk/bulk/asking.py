"""Asking one prompt, with a few more tries when what went wrong may pass."""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from llama4sdk.errors import LlamaError, Overloaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.backend import Capabilities
    from llama4sdk.messages import Message, Prompt
    from llama4sdk.reply import Reply
    from llama4sdk.request import Deadlines, Sampling
    from llama4sdk.telemetry.hook import Telemetry

_LONGEST = 60.0  # seconds that a server may tell us to wait
_FIRST, _LONGEST_OWN = 0.5, 8.0  # seconds, doubled from try to try
_LEAST_LEFT = 0.001  # seconds


class Chats(Protocol):
    """The part of a client that bulk work uses; `Llama4` has it."""

    @property
    def capabilities(self) -> Capabilities:
        """The backend's capabilities: its name is in errors, its model in the journal."""
        ...

    async def chat(
        self,
        prompt: Prompt,
        *,
        output: object = None,
        repair: int = 0,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
    ) -> Reply[Any]:
        """Ask, and wait for the whole reply."""
        ...


def pause_before(attempt: int, error: LlamaError, jitter: float) -> float:
    """Return how many seconds to wait before another try.

    What the server asked for, at most a minute; else half a second, doubled from try to try up to eight.

    Args:
        attempt: How many tries there were, from 1.
        error: What the last one ended with.
        jitter: From 0 to 1, at random: spreads tries that failed together.
    """
    asked = error.retry_after if isinstance(error, Overloaded) else None
    if asked is not None and not math.isnan(asked):
        # Later than asked for, never sooner.
        return min(max(asked, 0.0), _LONGEST) * (1 + jitter / 4)
    return min(_FIRST * 2 ** min(attempt - 1, 10), _LONGEST_OWN) * (1 - jitter / 2)


@dataclass(frozen=True, slots=True)
class Asking:
    """How every prompt is asked.

    Args:
        client: Who is asked.
        output: The form of a typed answer.
        repair: How often an answer that does not fit may be tried again.
        sampling: How tokens are chosen.
        deadlines: How long each phase may take; `total` spans all tries of one prompt.
        retries: How often a prompt is asked again after an error that may pass.
        telemetry: Observes each prompt.
    """

    client: Chats
    output: object
    repair: int
    sampling: Sampling
    deadlines: Deadlines
    retries: int
    telemetry: Telemetry | None = None

    async def ask(self, messages: Sequence[Message], index: int) -> Reply[Any]:
        """Return the reply to one conversation.

        Args:
            messages: The conversation.
            index: Its place among the prompts.

        Raises:
            LlamaError: The error of the last try.
        """
        with nullcontext() if self.telemetry is None else self.telemetry.entry(index):
            return await self._tried(messages)

    async def _tried(self, messages: Sequence[Message]) -> Reply[Any]:
        total = self.deadlines.total
        until = math.inf if total is None else anyio.current_time() + total
        attempt = 1
        while True:
            try:
                return await self._once(messages, until)
            except LlamaError as error:
                pause = pause_before(attempt, error, random.random())
                if not error.retryable or attempt > self.retries or anyio.current_time() + pause >= until:
                    raise
            await anyio.sleep(pause)
            attempt += 1

    async def _once(self, messages: Sequence[Message], until: float) -> Reply[Any]:
        deadlines = self.deadlines
        if until != math.inf:
            deadlines = replace(deadlines, total=max(until - anyio.current_time(), _LEAST_LEFT))
        return await self.client.chat(
            messages, output=self.output, repair=self.repair, sampling=self.sampling, deadlines=deadlines
        )
