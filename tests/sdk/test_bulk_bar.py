"""The progress bar: on a terminal, when it can be had, and never in the way."""

from __future__ import annotations

import io
import sys
import threading

import anyio
import pytest

from llama4sdk import InvalidRequest, Llama4, ServerFault, Usage
from llama4sdk.bulk import Tally, map_prompts
from llama4sdk.bulk.bar import note, open_bar
from llama4sdk.testing import ScriptedBackend


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(Terminal):
    def write(self, s: str, /) -> int:
        raise OSError(5, "Input/output error")


async def work(progress: bool | None) -> int:
    backend = ScriptedBackend("a b", [ServerFault("It broke.", retryable=False)], "c")
    async with (
        Llama4(backend) as llama,
        map_prompts(llama, ["a", "b", "c"], concurrency=1, progress=progress) as outcomes,
    ):
        return len([outcome async for outcome in outcomes])


def on(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    # In the test's own body: pytest sets stderr anew after the fixtures.
    pytest.importorskip("rich")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return terminal


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("progress", [None, True])
def test_a_terminal_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, loop: str, progress: bool | None) -> None:
    terminal = on(Terminal(), monkeypatch)
    stdout = sys.stdout
    assert anyio.run(work, progress, backend=loop) == 3
    assert "3/3" in terminal.getvalue()
    assert "3 tokens, 1 failed" in terminal.getvalue()
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h")  # the cursor is back
    assert sys.stderr is terminal
    assert sys.stdout is stdout


async def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on(Terminal(), monkeypatch)
    await work(False)
    assert terminal.getvalue() == ""


async def test_without_a_terminal_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for stderr in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert await work(True) == 3
        assert stderr is None or stderr.getvalue() == ""


async def test_without_rich_there_is_none_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on(Terminal(), monkeypatch)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert await work(None) == 3
    assert terminal.getvalue() == ""
    with pytest.raises(InvalidRequest, match="pip install"):
        await work(True)


async def test_a_terminal_that_goes_away_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    on(Gone(), monkeypatch)
    assert await work(None) == 3


def test_the_bar_has_no_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    on(Terminal(), monkeypatch)
    before = set(threading.enumerate())
    bar = open_bar(True, None)
    assert bar is not None
    bar.draw(Tally())
    assert set(threading.enumerate()) <= before
    bar.close(Tally(answered=1))


def test_the_note_says_what_is_worth_saying() -> None:
    assert note(Tally()) == ""
    assert note(Tally(3, 1, 2, Usage(9, 7))) == "7 tokens, 2 from the journal, 1 failed"
