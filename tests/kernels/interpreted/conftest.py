"""Runs this folder's tests in Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported, and other tests import it uninterpreted. With TRITON_INTERPRET=1 in
the environment the tests run in pytest's own process, where a debugger reaches them. Without it each test is run by
one interpreted pytest process, which lives as long as the session, and its reports appear here as usual.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PIPE = "KERNEL_TESTS_PIPE"  # in an interpreted process: descriptor of its end of the pipe

if find_spec("triton") is None:  # Triton exists for Linux only
    collect_ignore_glob = ["test_*.py"]


class InterpretedPytest:
    """A pytest process with the interpreter, which runs tests by node id.

    Args:
        config: The session's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.crashed = False
        self._config = config
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._connection, remote = Pipe()
        options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
        command = [sys.executable, "-m", "pytest", *options, str(FOLDER)]
        ours = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", PIPE: str(remote.fileno())}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self._process = subprocess.Popen(
            command,
            cwd=config.rootpath,
            env=inherited | ours,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=[remote.fileno()],
        )
        remote.close()

    def run(self, item: pytest.Item) -> list[pytest.TestReport]:
        """Run a test; a process that ends before it has reported fails the test with its output."""
        try:
            self._connection.send_bytes(item.nodeid.encode())
            received = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            return [self._crash(item)]
        restore = self._config.hook.pytest_report_from_serializable
        for report in received:
            if isinstance(report["longrepr"], list):  # of a skip: file, line and reason, which plugins take as a tuple
                report["longrepr"] = tuple(report["longrepr"])
        return [restore(config=self._config, data=report) for report in received]

    def _crash(self, item: pytest.Item) -> pytest.TestReport:
        self.crashed = True
        self._process.wait()
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")[-8000:]
        self.close()
        message = f"the interpreted process ended with status {self._process.returncode}:\n{output}"
        return pytest.TestReport(item.nodeid, item.location, {}, "failed", message, "call")

    def close(self) -> None:
        """End the process; a second call does nothing."""
        self._connection.close()
        self._process.wait()
        self._output.close()


RUNNER = pytest.StashKey[InterpretedPytest]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test of this folder in the interpreted process, and log its reports."""
    if INTERPRETED or FOLDER not in item.path.parents:
        return None
    stash = item.config.stash
    if RUNNER not in stash or stash[RUNNER].crashed:
        stash[RUNNER] = InterpretedPytest(item.config)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in stash[RUNNER].run(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # What the test before left set up for this one, its folders, is in the way of a test elsewhere.
    item.session._setupstate.teardown_exact(nextitem)  # pyright: ignore[reportPrivateUsage]
    return True


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the interpreted process with the session."""
    if RUNNER in config.stash:
        config.stash[RUNNER].close()


class Reports:
    """Plugin of an interpreted process that keeps the reports of one test."""

    def __init__(self) -> None:
        self.kept: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report."""
        self.kept.append(report)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """In an interpreted process: run the tests whose node ids come through the pipe, until it is closed."""
    if PIPE not in os.environ:
        return None
    config, reports = session.config, Reports()
    config.pluginmanager.register(reports)
    items = {item.nodeid: item for item in session.items}
    connection = Connection(int(os.environ[PIPE]))
    while True:
        try:
            item = items[connection.recv_bytes().decode()]
        except EOFError:
            return True
        reports.kept.clear()
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        content = [config.hook.pytest_report_to_serializable(config=config, report=one) for one in reports.kept]
        connection.send_bytes(json.dumps(content).encode())


def _mend_old_interpreter() -> None:
    """Give loops their bounds: Triton 3.6 converts a one-element array to an integer, which NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = cast("Callable[..., None]", interpreter._patch_lang_tensor)  # pyright: ignore[reportPrivateUsage]

    def mended(tensor: object, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))  # pyright: ignore

    interpreter._patch_lang_tensor = mended  # pyright: ignore


if INTERPRETED and metadata.version("triton").startswith("3.6."):
    _mend_old_interpreter()


@pytest.fixture(autouse=True)
def seeded_and_poisoned() -> Iterator[None]:
    """Fill fresh memory with NaN, so that an element that a kernel does not write shows."""
    torch.manual_seed(20)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # pyright: ignore[reportAttributeAccessIssue]
    yield
    torch.use_deterministic_algorithms(False)
