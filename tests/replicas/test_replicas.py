"""Replicas on Ray: one may die under running streams, another takes its place, and errors come through whole."""

from __future__ import annotations

from collections.abc import Generator

import anyio
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from llama4_ray import RayBackend, Scaling, open_backend
from llama4_ray.scaling import Scaler
from llama4sdk import CheckpointError, InvalidRequest, Llama4, Sampling, StreamInterrupted, TextDelta
from llama4sdk.backend import Backend
from llama4sdk.routing import Fallback
from replicas.nano_replicas import kill_one, nano_replicas, one_cluster
from routing.failing import until

GREEDY = Sampling(temperature=0, max_tokens=60)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Generator[None]:
    with one_cluster():
        yield


async def test_a_replica_that_dies_under_fifty_streams_loses_none_of_them_and_is_replaced() -> None:
    replicas = nano_replicas()
    async with Llama4(Fallback(replicas)) as llama:
        whole = {
            number: (await llama.chat(f"Count from {number} to 40.", sampling=GREEDY)).text for number in range(1, 6)
        }
        begun: list[int] = []
        texts: list[tuple[int, str]] = []

        async def ask(number: int) -> None:
            async with llama.stream(f"Count from {number} to 40.", sampling=GREEDY) as stream:
                async for event in stream:
                    if isinstance(event, TextDelta) and number not in begun:
                        begun.append(number)
                texts.append((number, stream.snapshot.text))

        async with anyio.create_task_group() as tasks:
            for place in range(50):
                tasks.start_soon(ask, 1 + place % 5)
            await until(lambda: bool(begun))
            kill_one(replicas)
        assert len(texts) == 50
        assert all(text == whole[number] for number, text in texts)
        with anyio.fail_after(120):
            while replicas.replicas < 2:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        assert (await llama.chat("What is 17 + 25?", sampling=GREEDY)).complete


async def test_alone_the_death_of_the_only_replica_interrupts_the_stream() -> None:
    replicas = nano_replicas(replicas=1)
    async with Llama4(replicas) as llama, llama.stream("Count from 1 to 40.", sampling=GREEDY) as stream:
        with pytest.raises(StreamInterrupted) as caught:
            async for event in stream:
                if isinstance(event, TextDelta):
                    kill_one(replicas)
        assert caught.value.partial is not None
        assert caught.value.partial.text.startswith("1")


async def test_an_error_of_the_backend_in_a_replica_is_that_error_here() -> None:
    backend: Backend = RayBackend("local:/nowhere/at/all", cpus=0.1)
    with pytest.raises(CheckpointError, match="/nowhere/at/all"):
        async with Llama4(backend):
            pass


def test_the_string_splits_into_replicas_and_the_options_of_each() -> None:
    backend = open_backend("ray:local:/models/scout", replicas=3, max_replicas=5, quantize="int4")
    assert "local:/models/scout" in repr(backend)
    with pytest.raises(InvalidRequest, match="replicas again"):
        open_backend("ray:ray:local")
    with pytest.raises(InvalidRequest, match="min_replicas"):
        RayBackend("local", replicas=2, min_replicas=3, max_replicas=2)


def test_replicas_follow_the_queue_at_once_and_go_when_they_were_idle_for_a_while() -> None:
    scaler = Scaler(Scaling(least=1, most=4, queue=10, idle=30), now=0)
    assert scaler.target(1, 5, 1) == 1
    assert scaler.target(1, 25, 2) == 3
    assert scaler.target(3, 500, 3) == 4
    assert scaler.target(4, 12, 10) == 4
    assert scaler.target(4, 12, 33) == 3
    assert scaler.target(3, 12, 34) == 2
    assert scaler.target(2, 12, 36) == 2
    assert scaler.target(2, 0, 40) == 2
    assert scaler.target(2, 0, 66) == 1
    assert scaler.target(1, 0, 900) == 1
