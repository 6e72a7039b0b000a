"""The examples of tools and typed answers run."""

from __future__ import annotations

import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llama4sdk import Llama4
from tools.written import Writes

EXAMPLES = Path(__file__).parents[2] / "examples"
NANO = Path(__file__).parents[2] / "backends" / "llama4_local" / "nano" / "checkpoint" / "config.json"


def example(name: str, monkeypatch: pytest.MonkeyPatch, *script: str) -> dict[str, Any]:
    """Load an example; with a script it talks to that instead of nano."""
    if script:
        backend = Writes(*script)

        def scripted(*, guards: object) -> Llama4:
            assert guards == "auto"
            return Llama4(backend, guards=None)

        monkeypatch.setattr("llama4sdk.Llama4", scripted)
    return runpy.run_path(str(EXAMPLES / name))


async def test_the_tools_example_calls_and_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = example(
        "tools.py",
        monkeypatch,
        '[get_weather(city="Paris"), get_weather(city="Rome")]',
        "Both are sunny.",
        '[convert_currency(amount=25, source="EUR", target="USD")]',
        "That is 27.50 USD.",
        '[send_message(person="Ada", text="see you soon")]',
        "I may not.",
    )
    await loaded["main"]()
    shown = capsys.readouterr().out
    assert "get_weather {'city': 'Rome'}" in shown
    assert "→ 27.50 USD" in shown
    assert "The call was refused: not allowed" in shown
    assert shown.count("answered") == 3


async def test_the_typed_answers_example_draws_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = example("typed_answers.py", monkeypatch, '{"name": "Ada", "age": 36, "city": "London"}', "true")
    screen = io.StringIO()
    await loaded["main"](Console(file=screen, width=100))
    shown = screen.getvalue()
    assert "London" in shown
    assert "Person(name='Ada', age=36, city='London')" in shown
    assert shown.rstrip().endswith("true")


@pytest.mark.skipif(not NANO.exists(), reason="the bundled nano checkpoint is not in this checkout")
@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("tools", ("get_weather {'city': 'Paris'}", "get_weather {'city': 'Rome'}", "Here is the answer: 27.50 USD.")),
        ("typed_answers", ("Person(name='Ada', age=36, city='London')", "true")),
    ],
)
def test_the_example_runs_on_nano(name: str, shows: tuple[str, ...]) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "LLAMA4_BACKEND"}
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert all(shown in ended.stdout for shown in shows), ended.stdout
