"""The devices of ranks, their process group, and the watch over a device that hangs; no GPU is needed."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

from llama4_local.config.share import Share
from llama4_local.engine.mailbox import EventLoop
from llama4_local.model.ranks import RankLost
from llama4_local.parallel import exchange as exchange_module
from llama4_local.parallel.channel import receive
from llama4_local.parallel.device_watch import DeviceWatch
from llama4_local.parallel.devices import devices_of
from llama4_local.parallel.exchange import Exchange
from llama4_local.parallel.group import connect
from llama4_local.parallel.reports import Reports
from llama4_local.serving.engine_thread import EngineThread
from llama4sdk.errors import InvalidRequest
from local.rank_threads import RankThreads, model_over_threads
from local.small_backends import SmallEngine, until
from local.small_checkpoints import prompt
from local.test_expert_parallel import one_mixture


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with three Hopper GPUs and an older one, and a torch with NCCL."""
    kinds = [(9, 0)] * 3 + [(8, 0)]

    def capability(device: torch.device) -> tuple[int, int]:
        return kinds[device.index or 0]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(kinds))
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("device", "ranks", "devices"),
    [
        ("auto", 2, ("cuda:0", "cuda:1")),
        ("cuda", 3, ("cuda:0", "cuda:1", "cuda:2")),
        ("cuda:2,cuda:0", 2, ("cuda:2", "cuda:0")),
        (" cuda:1 , cuda:2 ", 2, ("cuda:1", "cuda:2")),
        ("cpu", 4, ("cpu",) * 4),
        ("auto", 1, ("cuda",)),
        ("cuda:3", 1, ("cuda:3",)),
    ],
)
def test_each_rank_gets_its_device(device: str, ranks: int, devices: tuple[str, ...]) -> None:
    assert devices_of(device, ranks) == devices


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("device", "ranks", "words"),
    [
        ("cuda", 8, r"for tensor_parallel=8 is not there: there are 4 CUDA devices"),
        ("cuda", 4, r"of one kind: cuda:0 is sm_90, .*cuda:3 is sm_80"),
        ("cuda:0,cuda:4", 2, "there are 4 CUDA devices"),
        ("cuda:1,cuda:1", 2, "names a device twice"),
        ("cuda:0,cuda:1", 4, "names 2 of them for tensor_parallel=4"),
        ("cuda:0,cuda:1", 1, "names 2 of them for tensor_parallel=1"),
        ("cuda:1", 2, "names 1 of them"),
        ("cuda,cuda", 2, "names CUDA devices with their numbers"),
        ("cpu,cpu", 2, "names CUDA devices with their numbers"),
        ("cuda:0,", 2, "a list such as"),
        ("", 2, "a list such as"),
        ("xpu:0", 2, "runs on cpu and cuda"),
    ],
)
def test_devices_that_do_not_do_are_refused_in_words(device: str, ranks: int, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        devices_of(device, ranks)


@pytest.mark.usefixtures("gpus")
def test_a_torch_without_nccl_is_refused_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(InvalidRequest, match="a torch with NCCL"):
        devices_of("cuda", 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_ranks_are_on_the_cpu_or_refused() -> None:
    assert devices_of("auto", 2) == ("cpu", "cpu")
    with pytest.raises(InvalidRequest, match="sees no CUDA device; use device='cpu' or fewer ranks"):
        devices_of("cuda", 2)


@dataclass
class Group:
    """Stands in for PyTorch's group over NCCL: keeps what it was made with, and the environment of that moment."""

    store: Any
    rank: int
    size: int
    options: Any

    class Options:
        """Its options."""

    def __post_init__(self) -> None:
        self.handling = os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING")
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1


def test_gpus_meet_over_nccl_whose_watchdog_leaves_the_application_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", Group, raising=False)
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3")
    monkeypatch.delenv("TORCH_NCCL_ENABLE_MONITORING", raising=False)
    group = connect(Share(1, 2), torch.device("cuda", 1), str(tmp_path), 7.0)
    assert (group.rank, group.size, group.handling) == (1, 2, "0")
    assert group.options._timeout.total_seconds() == 7
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"
    assert "TORCH_NCCL_ENABLE_MONITORING" not in os.environ


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_collectives_on_gpus_are_aborted_where_a_rank_is_lost(kind: str) -> None:
    exchange = Exchange.__new__(Exchange)
    exchange.device, exchange._group = torch.device(kind), Group(None, 0, 2, None)  # pyright: ignore
    exchange._may_abort = threading.Lock()  # pyright: ignore[reportPrivateUsage]
    exchange.abort()
    exchange.abort()
    assert exchange._group.aborted == int(kind == "cuda")  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("dies", [True, False])
def test_a_meeting_that_never_ends_is_bounded(dies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, over = threading.Event(), threading.Event()

    def hangs(*_: object) -> None:
        waiting.set()
        over.wait(60)
        raise RuntimeError("too late")

    def check() -> None:
        if dies and waiting.is_set():
            raise RankLost("Rank 1 of the engine has ended", retryable=False)

    monkeypatch.setattr(exchange_module, "connect", hangs)
    monkeypatch.setattr(exchange_module, "_BEYOND", 60.0 if dies else 0.0)
    with pytest.raises(
        RankLost, match="Rank 1 of the engine has ended" if dies else "over NCCL, on cuda:0: they have not"
    ):
        Exchange(Share(0, 2), str(tmp_path), 60.0 if dies else 0.1, torch.device("cuda:0"), check)
    over.set()


async def test_an_idle_engine_ends_at_once_with_a_lost_rank() -> None:
    model = model_over_threads(one_mixture(), 2)
    assert model.ranks
    small = SmallEngine(model.config, model=model)
    thread = EngineThread(lambda outbox, report: small.engine, EventLoop.current())
    thread.start()
    await thread.ask(lambda engine: engine.idle)
    model.ranks.failed(RuntimeError("rank 0 itself"))
    await until(lambda: thread.ended is not None)
    assert isinstance(thread.ended, RankLost)
    assert thread.load is None
    with pytest.raises(RankLost, match="rank 0 itself"):
        await thread.ask(lambda engine: engine.idle)
    thread.join()


@dataclass
class Clock:
    """Shows the time that it is set to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Work:
    """Stands in for an event of the device."""

    done: bool = False

    def query(self) -> bool:
        return self.done


def test_a_device_hangs_where_a_command_or_its_work_takes_too_long() -> None:
    clock, work = Clock(), [Work(), Work(), Work(done=True), Work(done=True)]
    watch = DeviceWatch(10, iter(work).__next__, clock=clock)
    assert watch.works()
    with watch.command():
        clock.now = 9
        assert watch.works()
    with watch.command():
        clock.now = 18
    assert watch.works()  # the first command's work was given at 9
    clock.now = 20
    assert not watch.works()
    with watch.command():
        assert not watch.works()  # whatever came later
    work[0].done = True
    assert watch.works()  # the second's at 18
    work[1].done = True
    clock.now = 100
    assert watch.works()
    with watch.command():
        clock.now = 111
        assert not watch.works()
    assert watch.works()


def test_a_lost_device_does_not_work() -> None:
    class Lost(Work):
        def query(self) -> bool:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    watch = DeviceWatch(10, Lost)
    with watch.command():
        pass
    assert not watch.works()


def test_a_rank_whose_device_hangs_sends_no_heartbeat() -> None:
    own, theirs = socket.socketpair()
    works = [False, True]
    with own, theirs:
        reports = Reports(theirs)
        reports.beat_while(lambda: works.pop(0))
        reports.beat_once()
        own.setblocking(False)
        with pytest.raises(BlockingIOError):
            own.recv(1)
        reports.beat_once()
        assert receive(own).kind == "beat"


def test_numbers_that_a_lost_rank_had_a_part_in_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_over_threads(one_mixture(), 2)

    def lost(self: RankThreads) -> None:
        raise RankLost("gone", retryable=False)

    try:
        monkeypatch.setattr(RankThreads, "check", lost)
        small = SmallEngine(model.config, model=model)
        small.submit(prompt(model.config, 3))
        with pytest.raises(RankLost, match="gone"):
            small.engine.step()
    finally:
        assert model.ranks
        model.ranks.close()
