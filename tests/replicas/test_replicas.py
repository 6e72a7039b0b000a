"""Replicas on Ray keep the promises of every backend; one may die under its streams, and another takes its place."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from llama4_ray import RayBackend, placement, pulse
from llama4_ray.settings import Settings
from llama4sdk import (
    CheckpointError,
    DeadlineExceeded,
    Llama4,
    LlamaError,
    Sampling,
    StreamInterrupted,
    TextDelta,
)
from llama4sdk.backend import Backend
from llama4sdk.routing import Fallback
from llama4sdk.testing.conformance import BackendConformance
from long_runs import LONG, often, only_long
from replicas.nano_replicas import Kept, kill, kill_one, listening_addresses, nano_replicas, one_cluster, pid_of
from routing.failing import until

GREEDY = Sampling(temperature=0, max_tokens=60 if LONG else 24)
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1 in /proc/net/tcp and tcp6
STREAMS = often(20, 50)
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ray_replicas.py"
long = only_long("starts replicas of its own")


@pytest.fixture(scope="module", autouse=True)
def on_ray() -> Generator[None]:
    with one_cluster():
        yield


@pytest.fixture(scope="module")
def replicas_kept(on_ray: None) -> Kept:
    """Replicas that run already, since no test waits for one to start on a loaded machine."""
    kept = Kept()

    async def start() -> None:
        async with Llama4(nano_replicas()):
            pass

    with kept.used():
        anyio.run(start)
    return kept


@pytest.fixture
def kept(replicas_kept: Kept) -> Generator[Kept]:
    with replicas_kept.used():
        yield replicas_kept


class TestReplicas(BackendConformance):
    long_prompt = "Who are you and what can you do?"

    @pytest.fixture(autouse=True)
    def keep(self, kept: Kept) -> None:
        """Only the replicas themselves outlive a test."""

    def make(self) -> Backend:
        return nano_replicas()


@long
class TestFreshReplicas(BackendConformance):
    long_prompt = "Who are you and what can you do?"

    def make(self) -> Backend:
        return nano_replicas()


async def requests_of(backend: RayBackend) -> list[int]:
    """Return how many requests each replica has had since it started."""
    counts: list[int] = []
    async with httpx.AsyncClient() as client:
        for placed in backend.placed:
            answer = await client.get(placed.url + "/metrics", headers={"Authorization": f"Bearer {placed.key}"})
            found = re.findall(r"^llama4_requests_total\{.*completions.*\} (\S+)$", answer.text, re.MULTILINE)
            counts.append(int(sum(map(float, found))))
    return counts


async def test_a_map_uses_all_replicas(kept: Kept) -> None:
    backend = nano_replicas()
    async with Llama4(backend) as llama:
        before = await requests_of(backend)
        prompts = [f"What is {number} + {number}?" for number in range(12)]
        async with llama.map(prompts, sampling=Sampling(max_tokens=2)) as work:
            outcomes = [outcome async for outcome in work]
        after = await requests_of(backend)
    assert len(outcomes) == 12
    served = [now - then for now, then in zip(after, before, strict=True)]
    assert sum(served) == 12
    assert min(served) >= 3


async def test_replicas_of_this_machine_give_way_to_no_other_process(kept: Kept) -> None:
    backend = nano_replicas()
    async with Llama4(backend):
        theirs = [os.getpriority(os.PRIO_PROCESS, pid_of(placed)) for placed in backend.placed]
    assert theirs == [os.getpriority(os.PRIO_PROCESS, 0)] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_cluster_that_was_started_here_listens_on_this_machine_alone(kept: Kept) -> None:
    backend = nano_replicas()
    async with Llama4(backend):
        assert {httpx.URL(placed.url).host for placed in backend.placed} == {"127.0.0.1"}
        theirs = [listening_addresses(pid_of(placed)) for placed in backend.placed]
        assert all(theirs)
        assert set().union(*theirs, listening_addresses(os.getpid())) <= LOOPBACK


async def test_a_replica_that_dies_under_many_streams_loses_none_of_them_and_is_replaced(kept: Kept) -> None:
    replicas = nano_replicas()
    async with Llama4(Fallback(replicas)) as llama:
        whole = {
            number: (await llama.chat(f"Count from {number} to 40.", sampling=GREEDY)).text for number in range(1, 6)
        }
        killed = replicas.placed[0]
        begun: list[int] = []
        texts: list[tuple[int, str]] = []

        async def ask(number: int) -> None:
            async with llama.stream(f"Count from {number} to 40.", sampling=GREEDY) as stream:
                async for event in stream:
                    if isinstance(event, TextDelta) and number not in begun:
                        begun.append(number)
                texts.append((number, stream.snapshot.text))

        async with anyio.create_task_group() as tasks:
            for place in range(STREAMS):
                tasks.start_soon(ask, 1 + place % 5)
            await until(lambda: bool(begun))
            kill(killed)
        assert len(texts) == STREAMS
        assert all(text == whole[number] for number, text in texts)
        await until(lambda: replicas.replicas == 2 and killed not in replicas.placed, 120)
        assert (await llama.chat("What is 17 + 25?", sampling=GREEDY)).complete


@long
async def test_a_replica_whose_process_is_stopped_is_killed_and_replaced_and_its_streams_go_on(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "_LOOKS", 5)
    replicas = nano_replicas()
    async with Llama4(Fallback(replicas)) as llama:
        whole = [(await llama.chat(f"Count from {number} to 40.", sampling=GREEDY)).text for number in range(1, 5)]
        stopped = replicas.placed[0]
        process = pid_of(stopped)
        texts: dict[int, str] = {}

        async def ask(number: int) -> None:
            texts[number] = (await llama.chat(f"Count from {number} to 40.", sampling=GREEDY)).text

        async with anyio.create_task_group() as tasks:
            os.kill(process, signal.SIGSTOP)
            for number in range(1, 5):
                tasks.start_soon(ask, number)
        assert [texts[number] for number in range(1, 5)] == whole
        await until(lambda: replicas.replicas == 2 and stopped not in replicas.placed, 120)
        await until(lambda: not Path(f"/proc/{process}").exists(), 60)


async def test_alone_the_death_of_the_only_replica_interrupts_the_stream(kept: Kept) -> None:
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


def groups() -> list[dict[str, Any]]:
    """Return the placement groups of the cluster that exist."""
    from ray.util import placement_group_table

    table: dict[str, dict[str, Any]] = placement_group_table()
    return [group for group in table.values() if group["state"] != "REMOVED"]


def test_a_replica_of_two_ranks_reserves_one_bundle_of_one_node_and_one_process_reserves_none() -> None:
    assert placement.reserve(Settings("local", {}, 0.1)) is None
    group = placement.reserve(Settings("local", {"tensor_parallel": 2}, 0.2))
    assert group.wait(30)
    (reserved,) = groups()
    assert (reserved["strategy"], list(reserved["bundles"].values())) == ("STRICT_PACK", [{"CPU": 0.2}])
    placement.release(group)
    assert not groups()


async def test_a_replica_that_the_cluster_cannot_place_is_given_up_in_words_and_holds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    looks: list[float] = []
    wait = ray.wait

    def looking(refs: list[Any], *, timeout: float, **options: Any) -> Any:
        looks.append(timeout)
        return wait(refs, timeout=timeout, **options)

    monkeypatch.setattr(ray, "wait", looking)
    with pytest.raises(DeadlineExceeded, match=r"64 CPUs and 0 GPUs of one node free\? The largest has \d+ CPUs"):
        async with Llama4(RayBackend("local", tensor_parallel=64, start_seconds=1.2)):
            pass
    assert not groups()
    assert 1 <= len(looks) <= 6  # it waits for room, and does not ask over and over


@long
async def test_tensor_parallel_replicas_answer_alike_and_give_their_room_back_when_they_die_or_end(
    replicas_kept: Kept,
) -> None:
    import ray

    replicas_kept.end()  # a machine of two cores has no room beside them
    await until(lambda: ray.available_resources().get("CPU", 0) >= 2)
    alone = [(await ask_alone(f"Count from {number} to 40.")) for number in (1, 2)]
    free = ray.available_resources()["CPU"]
    replicas = RayBackend("local", tensor_parallel=2, threads=1, context=2048)
    async with Llama4(replicas) as llama:
        assert [group["bundles"] for group in groups()] == [{0: {"CPU": 2.0}}]
        assert ray.available_resources().get("CPU", 0) == free - 2
        assert [(await llama.chat(f"Count from {number} to 40.", sampling=GREEDY)).text for number in (1, 2)] == alone
        killed = replicas.placed[0]
        kill(killed)
        await until(lambda: replicas.replicas == 1 and killed not in replicas.placed, 180)
        assert len(groups()) == 1
        assert (await llama.chat("Count from 1 to 40.", sampling=GREEDY)).text == alone[0]
        os.kill(other_ranks()[0], signal.SIGKILL)
        killed = replicas.placed[0]
        with anyio.fail_after(180):
            while replicas.replicas < 1 or killed in replicas.placed:
                with anyio.move_on_after(5), suppress(LlamaError):  # an idle engine notices with its next request
                    await llama.chat("Hello!", sampling=GREEDY)
                await anyio.sleep(0.1)
        assert (await llama.chat("Count from 1 to 40.", sampling=GREEDY)).text == alone[0]
    assert not groups()
    await until(lambda: ray.available_resources().get("CPU") == free)
    await until(lambda: not other_ranks())


async def ask_alone(prompt: str) -> str:
    async with Llama4("local", context=2048) as llama:
        return (await llama.chat(prompt, sampling=GREEDY)).text


def other_ranks() -> list[int]:
    """Return the processes of ranks other than the first."""
    pids: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"llama4_local.parallel.rank_process" in words:
                pids.append(int(folder.name))
    return pids


@long
def test_more_replicas_than_a_machine_has_room_for_are_refused() -> None:
    code = (
        "import anyio\nfrom llama4_ray import RayBackend\nfrom llama4sdk import Llama4\n"
        "async def main():\n    async with Llama4(RayBackend('local', replicas=64, tensor_parallel=2)): pass\n"
        "anyio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert re.search(r"InvalidRequest: This machine has room for \d+ replicas with 2 CPUs and 0 GPUs", done.stderr)


@long
def test_an_application_outlives_its_cluster_whose_loss_is_one_error() -> None:
    code = (
        "import anyio\nfrom llama4_ray import RayBackend\nfrom llama4sdk import Llama4, Unreachable\n"
        "async def main():\n"
        "    backend = RayBackend('local', cpus=0.1, threads=1, context=2048)\n"
        "    async with Llama4(backend) as llama:\n"
        "        backend._connection._head.kill()\n"
        "        await anyio.sleep(75)\n"  # Ray ends a process after 60 s without its cluster
        "        try:\n            await llama.chat('?')\n"
        "        except Unreachable as error:\n            print(error)\n"
        "    print('closed')\n"
        "anyio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert re.search(r"The Ray cluster .* has ended.*\nclosed\n", done.stdout), done.stderr


@long
def test_the_example_runs() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 replicas of nano" in done.stdout
    assert "3 + 6 = 9" in done.stdout


@long
def test_the_command_serves_all_replicas() -> None:
    options = ["replicas=2", "cpus=0.1", "threads=1", "context=2048"]
    command = [sys.executable, "-m", "llama4sdk", "serve", "ray:local", "--port", "0"]
    for option in options:
        command += ["-o", option]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines: list[str] = []
        try:
            for line in server.stdout:
                lines.append(line)
                if (found := re.search(r"http://\S+?:\d+", line)) is not None:
                    break
            url = found[0]  # type: ignore[possibly-undefined]
            body = {"model": "nano", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0}
            answer = httpx.post(url + "/v1/chat/completions", json=body, timeout=60).json()
            assert "42" in answer["choices"][0]["message"]["content"]
        finally:
            server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert server.returncode == 0
