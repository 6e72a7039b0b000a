"""Random lives of a backend with its thread: whatever is asked, cancelled, forked or closed, nothing remains.

With `LLAMA4_LONG=1` it runs for tens of thousands of steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from llama4_local import LocalBackend
from llama4_local.engine.engine import Engine, EngineLimits
from llama4_local.serving.sessions import Session
from llama4sdk.backend import Capabilities
from llama4sdk.errors import ContextOverflow, InvalidRequest, LlamaError, Overloaded, ServerFault
from llama4sdk.events import Event, TextDelta
from llama4sdk.request import Request, Sampling
from llama4sdk.stream import Stream
from local.small_backends import SmallEngine, chatting, saved_chat
from long_runs import often

Step = Literal[
    "ask", "ask", "ask slowly", "read", "cancel", "cut", "wait", "wait", "begin", "go on", "go on", "go on slowly",
    "fork", "save", "restore", "close", "close while answering",
]  # fmt: skip
PATIENCE = often(20, 120)  # seconds for a life that takes one, a long one six: a watchdog
MOST_SESSIONS = 4
CONTEXT = 150
TEXTS = ("hello", "hello world", "hello world, how are you?", "one two three four five six seven", "x" * 70)

done_steps: Counter[str] = Counter()
ends: Counter[str] = Counter()


@cache
def alone() -> SmallEngine:
    """An engine with room for everything and nothing to share."""
    return SmallEngine(
        chatting(stop_ids=()), global_pages=100, limits=EngineLimits(step_tokens=16, prefix_caching=False)
    )


@cache
def said_alone(token_ids: tuple[int, ...], max_tokens: int) -> str:
    return alone().answer(token_ids, Sampling(temperature=0, max_tokens=max_tokens)).text


class Source(Protocol):
    """A backend or a session."""

    @property
    def capabilities(self) -> Capabilities: ...

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]: ...

    async def aclose(self) -> None: ...


class Asked:
    """A question, the task that reads its answer, and what the answer must be."""

    def __init__(self, source: Source, request: Request, token_ids: list[int], *, slow: bool) -> None:
        self.source = source
        self.stream = Stream(source, request)
        self.request = request
        self.token_ids = tuple(token_ids)
        self.may_read = asyncio.Event()
        self.entered = asyncio.Event()
        self.error: LlamaError | None = None
        self.cut = False
        if not slow:
            self.may_read.set()
        self.task = asyncio.create_task(self.follow())

    async def follow(self) -> None:
        try:
            async with self.stream:
                self.entered.set()
                async for event in self.stream:
                    if isinstance(event, TextDelta):
                        await self.may_read.wait()
        except LlamaError as error:
            self.error = error
        finally:
            self.entered.set()

    async def over(self) -> None:
        """Wait for the end."""
        self.may_read.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    def check(self, *, closed: bool) -> None:
        """The answer is the question's own, and an end before that has a reason."""
        reply, limit = self.stream.snapshot, self.request.sampling.max_tokens
        assert limit is not None
        room = min(limit, CONTEXT - len(self.token_ids))
        if self.error is not None:
            ends[type(self.error).__name__] += 1
            assert isinstance(self.error, self.reasons(closed=closed, room=room)), repr(self.error)
        elif reply.finish_reason == "length":
            ends["finished"] += 1
            assert reply.usage.completion_tokens == room
            assert reply.text == said_alone(self.token_ids, room)
        elif reply.finish_reason == "stop":  # the random network wrote an end of turn, where a Llama 4 always stops
            ends["finished"] += 1
            assert 1 <= reply.usage.completion_tokens <= room
        else:
            ends["cancelled"] += 1
            assert self.cut
        assert not reply.text or said_alone(self.token_ids, room).startswith(reply.text)

    def reasons(self, *, closed: bool, room: int) -> tuple[type[LlamaError], ...]:
        """Why it may have failed: the queue was full, or what sessions keep left no room; and what was closed."""
        reasons: list[type[LlamaError]] = [Overloaded]
        if closed:
            reasons += [ServerFault, InvalidRequest]
        if room < 1:
            reasons.append(ContextOverflow)
        if isinstance(self.source, Session) and self.source._closed:  # pyright: ignore[reportPrivateUsage]
            reasons.append(InvalidRequest)
        return tuple(reasons)


class Life:
    """A backend, who asks it, and the steps that chance takes."""

    def __init__(self, backend: LocalBackend, folder: Path, chance: random.Random) -> None:
        self.backend = backend
        self.folder = folder
        self.chance = chance
        self.asked: list[Asked] = []
        self.sessions: list[Session] = []
        self.files: list[Path] = []
        self.past: list[Asked] = []

    async def step(self, step: str) -> None:
        done_steps[step] += 1
        match step:
            case "ask" | "ask slowly":
                self.ask(self.backend, [], slow=step == "ask slowly")
            case "read":
                for asked in self.asked:
                    asked.may_read.set()
            case "cancel" | "cut":
                await self.stop_one(step)
            case "wait":
                await asyncio.sleep(self.chance.choice((0, 0.001, 0.004)))
            case "begin" if len(self.sessions) < MOST_SESSIONS:
                await self.begin()
            case "go on" | "go on slowly" if self.sessions:
                session = self.chance.choice(self.sessions)
                if not self.busy(session):
                    self.ask(session, list(session.prefix.token_ids), slow=step == "go on slowly")
            case "fork" | "save" | "close" | "close while answering" if self.sessions:
                await self.with_session(step, self.chance.choice(self.sessions))
            case "restore" if self.files and len(self.sessions) < MOST_SESSIONS:
                with contextlib.suppress(Overloaded):
                    self.sessions.append(await self.backend.restore(self.chance.choice(self.files)))
            case _:
                done_steps[step] -= 1
        self.asked, over = [a for a in self.asked if not a.task.done()], [a for a in self.asked if a.task.done()]
        self.past += over

    def busy(self, session: Session) -> bool:
        return any(asked.source is session and not asked.task.done() for asked in self.asked)

    def ask(self, source: Source, before: list[int], *, slow: bool) -> None:
        # A slow reader is noticed once its events fill the buffers, so its answer is long.
        sampling = Sampling(temperature=0, max_tokens=110 if slow else self.chance.choice((1, 3, 9)))
        part = "turn" if before else "whole"
        request = Request.of(self.chance.choice(TEXTS), sampling=sampling, part=part)
        rendered = self.backend.prompt_template.render(request.messages).token_ids
        self.asked.append(Asked(source, request, before + rendered[bool(before) :], slow=slow))

    async def stop_one(self, step: str) -> None:
        whole = [asked for asked in self.asked if not asked.cut]
        if not whole:
            return
        asked = self.chance.choice(whole)
        asked.cut = True
        if step == "cut":
            asked.task.cancel()
        else:
            await asked.entered.wait()
            await asked.stream.cancel()
        asked.may_read.set()

    async def begin(self) -> None:
        salt = self.chance.choice(("", "mine"))
        with contextlib.suppress(Overloaded):
            request = Request.of(self.chance.choice(TEXTS), cache_salt=salt, part="opening")
            self.sessions.append(await self.backend.session(request))

    async def with_session(self, step: str, session: Session) -> None:
        if step == "close while answering" or (step == "close" and not self.busy(session)):
            self.sessions.remove(session)
            await session.aclose()
        elif self.busy(session):
            return
        elif step == "fork" and len(self.sessions) < MOST_SESSIONS:
            self.sessions.append(await session.fork())
        elif step == "save":
            self.files.append(self.folder / f"{len(self.files)}.session")
            await session.save(self.files[-1])

    async def end(self, *, abruptly: bool) -> None:
        """Close everything, or the backend alone, and look at every answer."""
        if abruptly:
            await self.backend.aclose()
        async with asyncio.timeout(PATIENCE):
            for asked in self.asked:
                await asked.over()
        for asked in (*self.past, *self.asked):
            asked.check(closed=abruptly)
        for session in self.sessions:
            await session.aclose()


def holding(engine: Engine) -> tuple[int, int, int, int]:
    """Requests, pages that sessions hold, and pages of both pools that are out once kept prefixes are given up."""
    engine._prefixes.clear()  # pyright: ignore[reportPrivateUsage]
    pages = engine._pages  # pyright: ignore[reportPrivateUsage]
    out = [pool.pages - pool.free for pool in (pages.global_pool, pages.local_pool)]
    return engine.load.requests, engine.session_store.pages, *out  # type: ignore[return-value]


async def live(checkpoint: Path, steps: list[str], seed: int, *, abruptly: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        backend = LocalBackend(checkpoint, context=CONTEXT, max_sequences=3, max_waiting=5, step_tokens=11)
        try:
            async with asyncio.timeout(PATIENCE):
                await backend.start()
                life = Life(backend, Path(folder), random.Random(seed))
                for step in steps:
                    await life.step(step)
            await life.end(abruptly=abruptly)
            if not abruptly:
                worker, _ = backend.running()
                assert await worker.ask(holding) == (0, 0, 0, 0)
        finally:
            await backend.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def remains() -> Counter[str]:
    """The threads of this process by name, and how many files it has open."""
    found = Counter(thread.name for thread in threading.enumerate())
    found["open files"] = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))


@settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],  # threads do not run twice alike, so there is nothing to shrink
    max_examples=often(6, 250),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(st.sampled_from(get_args(Step)), min_size=20, max_size=often(60, 120)),
    seed=st.integers(0, 2**32),
    abruptly=st.booleans(),
)
def run_lives(checkpoint: Path, baseline: Counter[str], steps: list[str], seed: int, *, abruptly: bool) -> None:
    asyncio.run(live(checkpoint, steps, seed, abruptly=abruptly))
    gc.collect()
    until = time.monotonic() + 10
    while remains() - baseline and time.monotonic() < until:
        time.sleep(0.005)  # threads that were told to end take a moment
    assert not remains() - baseline  # what other tests left may go meanwhile


def test_fault_54_55_60_whatever_happens_nothing_remains_and_every_answer_is_its_own(checkpoint: Path) -> None:
    asyncio.run(live(checkpoint, ["ask", "begin", "save", "restore"], 0, abruptly=False))  # what is loaded only once
    gc.collect()
    time.sleep(0.1)
    run_lives(checkpoint, remains())
    print(f"\n{sum(done_steps.values())} steps: {dict(done_steps)}; ends: {dict(ends)}")
    assert {"finished", "cancelled"} <= set(ends)
    assert all(done_steps[step] for step in get_args(Step))
