"""The number of replicas follows the queue: at once when it grows, slowly when it shrinks, and no stream is lost.

The replicas are servers of this process; what Ray does for real ones, starting, watching and stopping them, is a list.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from llama4_ray import RayBackend, cluster, fleet, pulse
from llama4_ray.cluster import Placed
from llama4_ray.settings import Settings
from llama4sdk import InvalidRequest, Llama4, Overloaded, ServerFault, StreamInterrupted, TextDelta, Unreachable
from llama4sdk.messages import conversation
from llama4sdk.request import Request
from llama4sdk.routing import Fallback
from llama4sdk.routing.members import Member
from llama4sdk.server import create_app, running
from llama4sdk.testing import ScriptedBackend
from long_runs import often
from routing.failing import events_of, text_of, until

WORDS = "one two three four five six seven eight"


class Cluster:
    """Replicas that stand ready, in place of a cluster which starts them."""

    def __init__(self, ready: list[Placed]) -> None:
        self._lock = threading.Lock()
        self.ready = ready
        self.died: list[Placed] = []
        self.stopped: list[Placed] = []
        self.buried: list[Placed] = []
        self.starts = 0
        self.failing = 0
        self.room: int | None = None
        self.ended = False
        self.asked: list[Placed] = []
        self.silent: list[Placed] = []

    def place(self, settings: Settings, abandoned: threading.Event) -> Placed:
        del settings, abandoned
        with self._lock:
            self.starts += 1
            if self.failing:
                self.failing -= 1
                raise ServerFault("No room.")
            return self.ready.pop()

    def stop(self, placed: Placed) -> None:
        self.stopped.append(placed)
        self.ready.append(placed)

    def dead(self, replicas: tuple[Placed, ...]) -> list[Placed]:
        return [replica for replica in replicas if replica in self.died]

    def ask(self, placed: Placed) -> Placed:
        self.asked.append(placed)
        return placed

    def has_come(self, answer: Placed) -> bool:
        return answer not in self.silent

    def connect(self, address: str | None) -> Cluster:
        del address
        return self

    def capacity(self, settings: Settings) -> int | None:
        del settings
        return self.room

    def close(self) -> None:
        """Nothing was started."""


class Replicas:
    """Servers that stand for replicas."""

    def __init__(self, cluster: Cluster, scripts: dict[Placed, ScriptedBackend]) -> None:
        self.cluster = cluster
        self.scripts = scripts

    def kill(self, placed: Placed) -> None:
        """Let a replica's streams break, and Ray tell of its end."""
        self.cluster.died.append(placed)


@asynccontextmanager
async def stand_ins(monkeypatch: pytest.MonkeyPatch, count: int, pause: float) -> AsyncGenerator[Replicas]:
    async with AsyncExitStack() as stack:
        scripts: dict[Placed, ScriptedBackend] = {}
        for _ in range(count):
            script = ScriptedBackend(WORDS, pause=pause)
            llama = await stack.enter_async_context(Llama4(script))
            server = await stack.enter_async_context(running(create_app(llama, api_keys=["k"]), shutdown_seconds=0))
            scripts[Placed(None, None, server.url, "k")] = script
        made = Cluster(list(scripts))
        for name in ("place", "stop", "dead", "connect", "ask", "has_come"):
            monkeypatch.setattr(cluster, name, getattr(made, name))
        monkeypatch.setattr(cluster, "bury", made.buried.append)
        monkeypatch.setattr(fleet, "_WATCH", 0.02)
        monkeypatch.setattr(fleet, "_PAUSE", 0.02)
        monkeypatch.setattr(fleet, "_NOTICE", 0.02)  # what dies here leaves its connections standing
        yield Replicas(made, scripts)


def fleet_of(backend: RayBackend) -> fleet.Fleet:
    return backend._fleet  # pyright: ignore[reportPrivateUsage]


def members_of(backend: RayBackend) -> list[Member]:
    balanced = backend._balanced  # pyright: ignore[reportPrivateUsage]
    assert balanced is not None
    return balanced.members.all


async def ask(llama: Llama4, number: int, texts: list[str]) -> None:
    texts.append((await llama.chat(f"question {number}")).text)


async def test_a_burst_starts_replicas_up_to_the_most_and_its_end_drains_them_without_losing_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stand_ins(monkeypatch, 3, 0.05) as replicas:
        backend = RayBackend("local", min_replicas=1, max_replicas=3, queue=4, idle=0.25)
        texts: list[str] = []
        seen: list[int] = []
        async with Llama4(backend) as llama:
            async with anyio.create_task_group() as tasks:
                for number in range(30):
                    tasks.start_soon(ask, llama, number, texts)
                await until(lambda: backend.replicas == 3)
                for number in range(30, 40):
                    tasks.start_soon(ask, llama, number, texts)
            while backend.replicas > 1:
                seen.append(backend.replicas)
                async with anyio.create_task_group() as tasks:  # one to each, so that those that go have streams
                    for number in range(3):
                        tasks.start_soon(ask, llama, 100 * len(seen) + number, texts)
            assert replicas.cluster.starts == 3
            await until(lambda: len(replicas.cluster.stopped) == 2)
            assert all(replicas.scripts[placed].running == 0 for placed in replicas.cluster.stopped)
            assert (await llama.chat("the one that stays")).text == WORDS
        assert texts == [WORDS] * len(texts)
        assert len(texts) == 40 + 3 * len(seen)
        assert len(replicas.cluster.stopped) == 3


async def test_a_load_that_comes_back_takes_a_draining_replica_again_and_starts_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stand_ins(monkeypatch, 2, 0.05) as replicas:
        backend = RayBackend("local", replicas=2, min_replicas=1, max_replicas=2, queue=2, idle=0.05)
        texts: list[str] = []
        async with Llama4(backend) as llama, anyio.create_task_group() as tasks:
            members = members_of(backend)
            for number in range(2):
                tasks.start_soon(ask, llama, number, texts)
            await until(lambda: any(member.draining for member in members))
            for number in range(2, 6):
                tasks.start_soon(ask, llama, number, texts)
            await until(lambda: not any(member.draining for member in members))
            assert (replicas.cluster.starts, backend.replicas) == (2, 2)
        assert texts == [WORDS] * 6


@pytest.mark.parametrize("slow", ["connect", "place"])
async def test_closed_while_it_starts_it_leaves_neither_a_replica_nor_a_cluster(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    async with stand_ins(monkeypatch, 2, 0) as replicas:
        reached, goes_on, closed = threading.Event(), threading.Event(), list[bool]()
        step = getattr(replicas.cluster, slow)

        def slowly(*arguments: Any) -> Any:
            reached.set()
            if slow == "connect":
                goes_on.wait(20)
            elif replicas.cluster.starts:  # the second replica is waited for, until it is given up
                arguments[1].wait(20)
                raise ServerFault("given up")
            return step(*arguments)

        monkeypatch.setattr(cluster, slow, slowly)
        monkeypatch.setattr(replicas.cluster, "close", lambda: closed.append(True))
        backend = RayBackend("local", replicas=2)
        errors: list[ServerFault] = []

        async def start() -> None:
            try:
                await backend.start()
            except ServerFault as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            await until(reached.is_set)
            if slow == "place":
                await until(lambda: backend.replicas == 1)
            tasks.start_soon(backend.aclose)
            await anyio.sleep(0.01)
            goes_on.set()
        assert [str(error) for error in errors] == ["The Ray backend was closed while it started."]
        assert (backend.replicas, closed, len(replicas.cluster.ready)) == (0, [True], 2)
        with pytest.raises(InvalidRequest, match="started once"):
            await backend.start()


async def test_a_flapping_load_starts_replicas_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stand_ins(monkeypatch, 3, 0.005) as replicas:
        backend = RayBackend("local", min_replicas=1, max_replicas=3, queue=2, idle=1.0)
        texts: list[str] = []
        async with Llama4(backend) as llama:
            for _ in range(often(3, 30)):
                async with anyio.create_task_group() as tasks:
                    for number in range(12):
                        tasks.start_soon(ask, llama, number, texts)
                await anyio.sleep(0.1)
            assert replicas.cluster.starts <= 3
            assert not replicas.cluster.stopped
        assert texts == [WORDS] * len(texts)


async def test_when_all_replicas_have_died_requests_are_refused_until_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stand_ins(monkeypatch, 2, 0.01) as replicas:
        backend = RayBackend("local")
        async with Llama4(backend) as llama:
            assert llama.capabilities.model == "script"
            replicas.cluster.failing = 10_000
            replicas.kill(backend.placed[0])
            await until(lambda: not backend.replicas)
            with pytest.raises(Overloaded):
                await llama.chat("?")
            assert llama.capabilities.model == "script"
            replicas.cluster.failing = 0
            await until(lambda: backend.replicas == 1)
            assert (await llama.chat("?")).text == WORDS


async def test_replicas_that_die_while_others_start_and_drain_are_replaced_and_no_stream_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stand_ins(monkeypatch, often(5, 20), 0.01) as replicas:
        backend = RayBackend("local", min_replicas=2, max_replicas=3, replicas=2, queue=4, idle=0.05, resume=True)
        texts: list[str] = []
        async with Llama4(backend) as llama:
            for _ in range(often(2, 16)):
                async with anyio.create_task_group() as tasks:
                    for number in range(16):
                        tasks.start_soon(ask, llama, number, texts)
                    await until(lambda: len(set(backend.placed) - set(replicas.cluster.died)) >= 2)
                    replicas.kill(backend.placed[0])
                    replicas.cluster.failing = 1
            await until(lambda: backend.replicas == 2 and not set(backend.placed) & set(replicas.cluster.died))
            await until(lambda: set(replicas.cluster.buried) == set(replicas.cluster.died))
        assert texts == [WORDS] * len(texts)


async def test_a_replica_that_answers_no_more_is_replaced_and_its_streams_go_on_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stand_ins(monkeypatch, 3, 0.1) as replicas:
        monkeypatch.setattr(pulse, "_LOOKS", 3)
        looked = replicas.cluster.asked
        backend = RayBackend("local", replicas=2, resume=True)
        texts: list[str] = []
        async with Llama4(backend) as llama, anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(ask, llama, number, texts)
            await until(lambda: len(looked) > 8)  # those that answer are asked again and again, and stay
            hung = backend.placed[0]
            assert (replicas.cluster.starts, replicas.cluster.buried) == (2, [])
            replicas.cluster.silent.append(hung)
            await until(lambda: replicas.cluster.buried == [hung])
            await until(lambda: backend.replicas == 2 and hung not in backend.placed)
        assert texts == [WORDS] * 4


async def test_a_stream_of_a_replica_that_is_taken_out_is_interrupted_and_keeps_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stand_ins(monkeypatch, 1, 0.1) as replicas:
        backend = RayBackend("local")
        async with Llama4(backend) as llama:
            with pytest.raises(StreamInterrupted, match="taken out") as caught:
                async with llama.stream("?") as stream:
                    async for event in stream:
                        if isinstance(event, TextDelta):
                            replicas.cluster.failing = 10_000
                            replicas.cluster.died = list(backend.placed)
            assert caught.value.retryable
            assert caught.value.partial is not None
            assert WORDS.startswith(caught.value.partial.text)


async def test_when_the_cluster_of_this_machine_has_ended_requests_fail_at_once_and_none_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stand_ins(monkeypatch, 2, 0.01) as replicas:
        backend = RayBackend("local", replicas=2)
        async with Llama4(backend) as llama:
            assert (await llama.chat("?")).text == WORDS
            replicas.cluster.ended = True
            await until(lambda: not backend.replicas)
            with pytest.raises(Unreachable, match=r"has ended.*make another backend") as caught:
                await llama.chat("?")
            assert not caught.value.retryable
            elsewhere = Fallback(backend, ScriptedBackend("here"))
            assert text_of(await events_of(elsewhere, Request(conversation("?")))) == "here"
        assert replicas.cluster.starts == 2


async def test_a_replica_that_dies_while_it_drains_is_buried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stand_ins(monkeypatch, 2, 0.2) as replicas:
        backend = RayBackend("local", replicas=2, min_replicas=1, max_replicas=2, idle=0.0, resume=True)
        texts: list[str] = []
        async with Llama4(backend) as llama, anyio.create_task_group() as tasks:
            for number in range(2):
                tasks.start_soon(ask, llama, number, texts)
            await until(lambda: any(member.draining for member in members_of(backend)))
            draining = next(member.backend for member in members_of(backend) if member.draining)
            replicas.cluster.died += [placed for placed, of in fleet_of(backend).placed.items() if of is draining]
            await until(lambda: backend.replicas == 1)
        assert texts == [WORDS] * 2
        assert len(replicas.cluster.died) == 1
        await until(lambda: replicas.cluster.buried == replicas.cluster.died)
        assert not set(replicas.cluster.stopped) & set(replicas.cluster.died)


async def test_more_replicas_than_a_machine_holds_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stand_ins(monkeypatch, 1, 0.0) as replicas:
        replicas.cluster.room = 1
        with pytest.raises(
            InvalidRequest, match="room for 1 replicas with 2 CPUs and 0 GPUs of one node each, not for 3"
        ):
            async with Llama4(RayBackend("local", replicas=3, cpus=2)):
                pass
        assert not replicas.cluster.starts
        backend = RayBackend("local", min_replicas=1, max_replicas=3, queue=1)
        async with Llama4(backend) as llama:
            texts: list[str] = []
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(ask, llama, number, texts)
                await anyio.sleep(0.1)
            assert texts == [WORDS] * 8
        assert replicas.cluster.starts == 1
