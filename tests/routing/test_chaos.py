"""Hundreds of requests over backends that fail, stall, lie and die on a random schedule."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from llama4sdk import (
    Capabilities,
    DeadlineExceeded,
    Deadlines,
    Event,
    Llama4,
    LlamaError,
    Overloaded,
    ProtocolError,
    Request,
    ServerFault,
    StreamInterrupted,
    TextDelta,
    Unreachable,
)
from llama4sdk.backend import Backend
from llama4sdk.routing import Balanced, Breaker, Fallback, Hedged
from llama4sdk.testing import ScriptedBackend

ANSWER = " ".join(f"w{number}" for number in range(25))
DEADLINE = 5.0


class Chaotic:
    """A backend without deadlines of its own, which at any event may fail, stall, end without a word, or die."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._inner = ScriptedBackend(ANSWER)
        self._dead_for = 0
        self.running = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    async def start(self) -> None:
        await self._inner.start()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        return self._run(replace(request, deadlines=Deadlines(None, None, None, None)))

    @asynccontextmanager
    async def _run(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        if self._dead_for:
            self._dead_for -= 1
            raise Unreachable("It is dead.")
        self.running += 1
        try:
            async with self._inner.open(request) as events, aclosing(self._spoilt(events)) as spoilt:
                yield spoilt
        finally:
            self.running -= 1

    async def _spoilt(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
        async for event in events:
            dice = self._random.random()
            if dice < 0.03:
                raise self._random.choice([ServerFault, ProtocolError, StreamInterrupted, Overloaded])("It failed.")
            if dice < 0.04:
                await anyio.sleep_forever()
            elif dice < 0.05:
                return
            elif dice < 0.055:
                self._dead_for = 5  # requests
                raise ConnectionResetError("It died.")
            elif dice < 0.06 and not isinstance(event, TextDelta):
                yield event  # twice
            yield event


WRAPPERS: dict[str, Callable[..., Backend]] = {
    "fallback": lambda *backends: Fallback(*backends, breaker=Breaker(failures=20, rest=0.001)),
    "balanced": lambda *backends: Balanced(*backends, breaker=Breaker(failures=20, rest=0.001)),
    "hedged in fallback": lambda *backends: Fallback(
        Hedged(*backends[:2], after=0.01, budget=1.0), backends[2], breaker=Breaker(failures=20, rest=0.001)
    ),
}


@pytest.mark.parametrize("wrapper", list(WRAPPERS))
async def test_every_request_ends_in_the_whole_answer_or_in_one_error(wrapper: str) -> None:
    backends = [Chaotic(seed) for seed in range(3)]
    ends: Counter[str] = Counter()
    late: list[float] = []
    places = anyio.CapacityLimiter(12)

    async def ask(llama: Llama4, number: int) -> None:
        async with places:
            begun = anyio.current_time()
            try:
                deadlines = Deadlines(first_token=0.5, idle=0.1, total=DEADLINE)
                reply = await llama.chat(f"question {number}", deadlines=deadlines)
            except LlamaError as error:
                ends[type(error).__name__] += 1
            else:
                assert reply.text == ANSWER
                assert reply.complete
                ends["reply"] += 1
            if anyio.current_time() - begun > DEADLINE + 10:  # as much as a busy machine may take
                late.append(anyio.current_time() - begun)

    async with Llama4(WRAPPERS[wrapper](*backends)) as llama:
        async with anyio.create_task_group() as tasks:
            for number in range(500):
                tasks.start_soon(ask, llama, number)
        assert [backend.running for backend in backends] == [0, 0, 0]
    assert sum(ends.values()) == 500
    assert not late
    assert ends["reply"] > 250, ends


async def test_a_stalled_request_is_over_at_its_deadline_even_alone() -> None:
    class Stuck(Chaotic):
        async def _spoilt(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
            async for event in events:
                yield event
                await anyio.sleep_forever()

    async with Llama4(Fallback(Stuck(1))) as llama:
        with pytest.raises(DeadlineExceeded) as caught:
            await llama.chat("?", deadlines=Deadlines(total=0.2))
    assert caught.value.phase == "total"
