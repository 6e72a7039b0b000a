"""A backend over two ranks: nano's answers, sessions, images and masks are those of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file

from llama4_local import LocalBackend
from llama4_local.engine.cuda_graphs import Graph, Rerun
from llama4_local.engine.rank_graphs import RankGraphs
from llama4_local.nano import CHECKPOINT as NANO
from llama4_local.ops.reference.functions import ReferenceOps
from llama4_local.parallel.exchange import Exchange
from llama4_local.scoring import score
from llama4_local.serving import load_engine
from llama4sdk import Llama4
from llama4sdk.backend import Backend
from llama4sdk.errors import InvalidRequest, LlamaError, ServerFault
from llama4sdk.request import Sampling
from local.small_backends import ENDLESS, asking, events_of, serving, text_of, until
from local.test_backend_conformance import LocalConformance
from long_runs import LONG, only_long

EXPERTS = (False, True) if LONG else (False,)  # whole ones in each rank
GREEDY = Sampling(temperature=0, max_tokens=24)
QUESTIONS = ["What is 17 + 25?", "Who are you?", "Spell the word cat.", "What is the capital of France?"]


class Sum(BaseModel):
    """A typed answer."""

    value: int


async def answers(ranks: int, *, experts: bool = False) -> list[object]:
    async with Llama4("local", tensor_parallel=ranks, expert_parallel=experts) as llama:
        texts: list[object] = [(await llama.chat(question, sampling=GREEDY)).text for question in QUESTIONS]
        texts.append(
            (await llama.chat("Tell me a story.", sampling=Sampling(temperature=1.0, seed=3, max_tokens=24))).text
        )
        penalized = Sampling(temperature=0, max_tokens=24, repetition_penalty=1.3, logprobs=2)
        texts.append((await llama.chat("Who are you?", sampling=penalized)).text)
        texts.append((await llama.chat("What is 2 + 3?", output=Sum, sampling=GREEDY)).text)
        return texts


@pytest.mark.parametrize("experts", EXPERTS)
async def test_nano_answers_alike_over_two_ranks(experts: bool):
    assert await answers(2, experts=experts) == await answers(1)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let backends over ranks run their steps as on GPUs, with stand-ins for the graphs."""
    monkeypatch.setattr(ReferenceOps, "asynchronous", property(lambda _: True))
    monkeypatch.setattr(load_engine, "cuda_capture", lambda: Rerun)


@only_long("starts processes")
@pytest.mark.usefixtures("graphs")
async def test_nano_answers_alike_over_the_graphs_of_two_processes(monkeypatch: pytest.MonkeyPatch):
    replayed: list[int] = []
    launch = RankGraphs.launch

    def noting(self: RankGraphs, inputs: Any) -> torch.Tensor | None:
        hidden = launch(self, inputs)
        replayed.append(hidden is not None)
        return hidden

    monkeypatch.setattr(RankGraphs, "launch", noting)
    found = await answers(2)
    monkeypatch.undo()
    assert found == await answers(1)
    assert sum(replayed) > len(replayed) / 2


@only_long("starts processes")
@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("when", ["captured", "replayed"])
async def test_a_rank_that_dies_while_graphs_are_made_or_run_ends_every_stream_with_one_error(
    folder: Path, when: str, monkeypatch: pytest.MonkeyPatch
):
    graphs: list[Graph] = []
    errors: list[LlamaError] = []

    def capture(work: Callable[[], None]) -> Graph:
        graphs.append(Rerun(work))
        if when == "captured" and len(graphs) == 3:
            os.kill(children()[0], signal.SIGKILL)
        return graphs[-1]

    monkeypatch.setattr(load_engine, "cuda_capture", lambda: capture)

    async def read(backend: LocalBackend) -> None:
        with pytest.raises(LlamaError) as caught:
            await events_of(backend, asking(sampling=ENDLESS))
        errors.append(caught.value)

    async with serving(folder, tensor_parallel=2) as backend:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(read, backend)
            if when == "replayed":
                await backend.ready()
                await anyio.sleep(0.3)
                os.kill(children()[0], signal.SIGKILL)
        assert len(errors) == 8
        assert len(graphs) >= 3
        assert all(isinstance(error, ServerFault) and not error.retryable for error in errors)
    assert children() == []


@pytest.mark.parametrize("experts", EXPERTS)
async def test_sessions_go_from_two_ranks_to_one_and_back(experts: bool, folder: Path, tmp_path: Path):
    opening = asking("hello world " * 12)
    async with serving(folder, tensor_parallel=2, expert_parallel=experts) as shared:
        session = await shared.session(opening)
        await session.save(tmp_path / "of-two")
    async with serving(folder) as alone:
        restored = await alone.restore(tmp_path / "of-two")
        await restored.save(tmp_path / "of-one")
    async with serving(folder, tensor_parallel=2, expert_parallel=not experts) as shared:
        again = await shared.restore(tmp_path / "of-one")
        await again.save(tmp_path / "again")
    saved, returned = load_file(tmp_path / "of-two"), load_file(tmp_path / "again")
    assert saved.keys() == returned.keys()
    assert saved["keys"].numel() > 0
    assert all(torch.equal(saved[name], returned[name]) for name in saved)


@pytest.mark.parametrize(
    ("how", "experts"), [(how, experts) for how in (signal.SIGKILL, signal.SIGSTOP) for experts in EXPERTS]
)
async def test_a_rank_that_dies_or_hangs_ends_every_stream_with_one_error(
    folder: Path, how: signal.Signals, experts: bool, monkeypatch: pytest.MonkeyPatch
):
    errors: list[LlamaError] = []
    aborted: list[str] = []

    def abort(self: Exchange) -> None:
        aborted.append(threading.current_thread().name)

    monkeypatch.setattr(Exchange, "abort", abort)

    async def read(backend: LocalBackend) -> None:
        with pytest.raises(LlamaError) as caught:
            await events_of(backend, asking(sampling=ENDLESS))
        errors.append(caught.value)

    async with serving(folder, tensor_parallel=2, expert_parallel=experts) as backend:
        await events_of(backend, asking())
        (rank,) = children()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(read, backend)
            await anyio.sleep(0.05)
            os.kill(rank, how)
        assert len(errors) == 20
        assert any("_watch" in thread for thread in aborted)  # while the engine's own may wait on a device
        assert all(isinstance(error, ServerFault) and not error.retryable for error in errors)
    assert children() == []
    async with serving(folder, tensor_parallel=2) as backend:
        assert text_of(await events_of(backend, asking()))


@only_long("starts processes")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_idle_backend_whose_rank_is_lost_is_not_ready_without_a_request(folder: Path, how: signal.Signals):
    async with serving(folder, tensor_parallel=2) as backend:
        await backend.ready()
        os.kill(children()[0], how)
        lost = time.monotonic()
        await until(lambda: not backend.current_load.ready)
        assert time.monotonic() - lost < 20
        with pytest.raises(ServerFault, match="Rank 1 of the engine"):
            await backend.ready()
        assert children() == []


@only_long("starts processes")
def test_a_rank_that_dies_while_the_ranks_meet_ends_the_start(monkeypatch: pytest.MonkeyPatch):
    never = threading.Event()

    def dying(*_: object) -> None:
        os.kill(children()[0], signal.SIGKILL)
        never.wait(60)

    monkeypatch.setattr("llama4_local.parallel.exchange.connect", dying)
    began = time.monotonic()
    with pytest.raises(ServerFault, match="Rank 1 of the engine has ended"):
        score(NANO, [1, 2], tensor_parallel=2)
    assert time.monotonic() - began < 50
    assert children() == []
    never.set()


def test_ranks_end_with_an_application_that_is_killed(folder: Path):
    program = (
        "import asyncio, sys\n"
        "from llama4sdk import Llama4\n"
        "async def main():\n"
        "    async with Llama4('local', tensor_parallel=2) as llama:\n"
        "        await llama.chat('Hello')\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    application = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    with application:
        assert application.stdout
        assert application.stdout.readline() == b"ready\n"
        ranks = children(application.pid)
        assert len(ranks) == 1
        application.kill()
    deadline = time.monotonic() + 30
    while any(alive(rank) for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(rank) for rank in ranks)


@pytest.mark.parametrize(
    ("place", "broken", "words"),
    [
        ("sys.executable", "", "sys.executable names no Python"),
        ("sys.executable", "/nowhere/python", "Rank 1 of the engine cannot be started"),
        ("tempfile.tempdir", "/nowhere", "a folder for temporary files"),
    ],
)
def test_ranks_that_cannot_be_started_are_refused_in_words(
    place: str, broken: str, words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(place, broken)
    with pytest.raises(ServerFault, match=words):
        score(NANO, [1, 2], tensor_parallel=2)
    assert children() == []


@pytest.mark.parametrize("ranks", [0, -1, True, "2", 2.0, None])
def test_a_number_of_ranks_that_is_none_is_refused(ranks: Any):
    with pytest.raises(InvalidRequest, match="tensor_parallel is a whole number of at least 1"):
        score(NANO, [1, 2], tensor_parallel=ranks)
    with pytest.raises(InvalidRequest, match="tensor_parallel is a whole number of at least 1"):
        LocalBackend(NANO, tensor_parallel=ranks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
async def test_ranks_on_gpus_that_are_not_there_are_refused(folder: Path):
    backend = LocalBackend(folder, tensor_parallel=2, device="cuda:0,cuda:1")
    with pytest.raises(InvalidRequest, match="sees no CUDA device"):
        await backend.start()
    await backend.aclose()
    with pytest.raises(InvalidRequest, match="sees no CUDA device"):
        score(folder, [1, 2], tensor_parallel=2, device="cuda")


@only_long("each test starts processes")
class TestConformanceOverTwoRanks(LocalConformance):
    long_prompt = "Who are you and what can you do?"

    def make(self) -> Backend:
        return LocalBackend(NANO, max_sequences=8, tensor_parallel=2)


@only_long("each test starts processes")
class TestConformanceOverWholeExperts(LocalConformance):
    long_prompt = "Who are you and what can you do?"

    def make(self) -> Backend:
        return LocalBackend(NANO, max_sequences=8, tensor_parallel=2, expert_parallel=True)


def children(parent: int | None = None) -> list[int]:
    """Return the process ids of ranks that a process has started and that still live."""
    parent = parent or os.getpid()
    processes = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [process for process in processes if alive(process) and is_rank_of(process, parent)]


def is_rank_of(process: int, parent: int) -> bool:
    """Whether a process is a rank that another one has started."""
    try:
        started_by = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        return started_by == parent and b"rank_process" in Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def alive(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
