"""The examples of tools and typed answers run."""

from __future__ import annotations

import io
import runpy
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
        monkeypatch.setattr("llama4sdk.Llama4", lambda: Llama4(backend))
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
    assert "no messages from examples" in shown
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
async def test_both_examples_run_on_nano(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LLAMA4_BACKEND", raising=False)
    await example("tools.py", monkeypatch)["main"]()
    await example("typed_answers.py", monkeypatch)["main"](Console(file=io.StringIO()))
    assert "rounds" in capsys.readouterr().out
