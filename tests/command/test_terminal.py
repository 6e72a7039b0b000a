"""`llama4 chat` on a terminal: a process of its own behind a pseudo-terminal, which turns keys into signals."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image as Pillow

from long_runs import only_long

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what the program waits for")

CTRL_C, CTRL_D = b"\x03", b"\x04"
PATIENCE = 30.0  # seconds for each thing that is waited for
CHILD = """\
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal's keys become this process's signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a suite in the background leaves ignored
from llama4sdk.command.chat import chat_with
from llama4sdk.testing import ScriptedBackend

def answer(request):
    if "slowly" in request.messages[-1].text:
        return ["begun ", 60.0, "never"]
    roles = ",".join(message.role for message in request.messages)
    return f"<{roles};{len(request.messages[-1].images)}>"

sys.exit(chat_with(ScriptedBackend(answer), {}))
"""


class Terminal:
    """The terminal's side of a program.

    Args:
        master: File descriptor of the pseudo-terminal.
        program: The program.
    """

    def __init__(self, master: int, program: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.program = program
        self._shown = b""

    def type(self, keys: str | bytes) -> None:
        os.write(self._master, keys if isinstance(keys, bytes) else keys.encode())

    def shows(self, expected: str) -> str:
        """Wait until something is shown, and return everything up to there; it is not found a second time."""
        until = time.monotonic() + PATIENCE
        while expected.encode() not in self._shown:
            ready, _, _ = select.select([self._master], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"{expected!r} is not shown, but {self._shown!r}"
            self._shown += os.read(self._master, 65536)
        before, _, self._shown = self._shown.partition(expected.encode())
        return before.decode("utf-8", "replace")

    def interrupt(self) -> None:
        """Press Ctrl-C once the program waits: Python misses one that comes just before a read of the terminal."""
        asleep = 0
        while asleep < 3:
            time.sleep(0.03)
            state = (
                Path(f"/proc/{self.program.pid}/task/{self.program.pid}/stat").read_text().rpartition(")")[2].split()[0]
            )
            asleep = asleep + 1 if state == "S" else 0
        self.type(CTRL_C)

    def ended(self) -> int:
        return self.program.wait(PATIENCE)


@contextmanager
def dialog(kind: str = "dumb") -> Generator[Terminal]:
    """Run a dialog on a kind of terminal, up to its first prompt."""
    master, slave = os.openpty()
    environment = {**os.environ, "TERM": kind, "COLUMNS": "200"}
    ends: dict[str, int] = {"stdin": slave, "stdout": slave, "stderr": slave}
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, **ends, start_new_session=True, env=environment) as program:  # pyright: ignore[reportCallIssue, reportArgumentType]
        os.close(slave)
        terminal = Terminal(master, program)
        try:
            terminal.shows("you   ")
            yield terminal
        finally:
            program.kill()
            os.close(master)


def test_ctrl_c_stops_the_answer_and_the_dialog_goes_on_until_the_second_one(tmp_path: Path) -> None:
    Pillow.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with dialog() as terminal:
        terminal.type("slowly\n")
        terminal.shows("begun")
        begun = time.monotonic()
        terminal.interrupt()
        terminal.shows("you   ")
        assert time.monotonic() - begun < 20  # and not the 60 seconds that the answer takes
        terminal.type(f"/image {tmp_path / 'a.png'}\n")
        terminal.shows("you   ")
        terminal.type("and now?\n")
        terminal.shows("<user,assistant,user;1>")  # what had come of the stopped answer was said
        terminal.shows("you   ")
        terminal.type("/system Be brief.\n")
        terminal.shows("you   ")
        terminal.type("agin\x1b[D\x1b[Da\n")  # two steps to the left
        terminal.shows("<system,user;0>")
        terminal.shows("you   ")
        terminal.type(f"/save {tmp_path / 'said.json'}\n")
        terminal.shows("you   ")
        said = json.loads((tmp_path / "said.json").read_text())
        assert said == [{"role": "user", "content": "again"}, {"role": "assistant", "content": "<system,user;0>"}]
        terminal.interrupt()
        terminal.shows("Ctrl-C again")
        assert terminal.program.poll() is None
        terminal.interrupt()
        assert terminal.ended() == 130


def test_a_second_ctrl_c_after_one_that_stopped_an_answer_ends_the_dialog() -> None:
    with dialog() as terminal:
        terminal.type("slowly\n")
        terminal.shows("begun")
        terminal.interrupt()
        terminal.shows("you   ")
        terminal.interrupt()
        assert terminal.ended() == 130


def test_the_end_of_the_input_ends_the_dialog() -> None:
    with dialog() as terminal:
        terminal.interrupt()
        terminal.shows("Ctrl-C again")
        terminal.shows("you   ")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0


@only_long("a process of its own")
def test_lines_that_are_pasted_at_once_are_one_question() -> None:
    with dialog("xterm") as terminal:
        terminal.type("\x1b[200~first\nsecond\x1b[201~\n")
        terminal.shows("<user;0>")
        terminal.type("next\n")
        terminal.shows("<user,assistant,user;0>")
