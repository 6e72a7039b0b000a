"""The process that holds a cluster of this machine: one starts at a time, and one that fails gives its reason."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from llama4_ray import cluster, head
from llama4sdk import ServerFault


class NoRay(SimpleNamespace):
    """A Ray that starts no cluster."""

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        raise RuntimeError("the raylet\nfailed to start")


def test_two_clusters_never_start_at_the_same_time() -> None:
    pytest.importorskip("fcntl")
    starts, entered = list[str](), threading.Event()

    def second() -> None:
        entered.set()
        with head.one_at_a_time():
            starts.append("second")

    thread = threading.Thread(target=second)
    with head.one_at_a_time():
        thread.start()
        entered.wait(20)
        thread.join(0.05)
        starts.append("first")
    thread.join(20)
    assert starts == ["first", "second"]


def test_a_cluster_that_cannot_be_started_is_an_error_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", NoRay())  # type: ignore[arg-type]
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert head.main() == 1
    line = capsys.readouterr().out
    popen = subprocess.Popen

    def started(command: list[str], **options: Any) -> subprocess.Popen[str]:
        assert command[1:] == ["-m", "llama4_ray.head"]
        return popen(["printf", "%s", line], **options)

    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(ServerFault, match="on this machine: RuntimeError: the raylet failed to start; try"):
        cluster.connect(None)
