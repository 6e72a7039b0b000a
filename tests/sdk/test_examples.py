"""Every example runs as a newcomer would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from long_runs import LONG

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BULK = tuple(f"{number} + {number + 3} = {2 * number + 3}." for number in range(12))
# What an example prints, nano's answers among it.
SHOWS = {
    "quickstart": ("Two streams at once:", "17 + 25 = 42", "Paris", "A red circle and a blue square."),
    "vision": ("1. A green circle.", "2. A blue square.", "3. A black triangle.", "Picture 2 has a blue square."),
    "streaming": ("started", "done", "cancelled: ", "deadline"),
    "sessions": (
        "aside, in a fork:",
        "saved ",
        "restored ",
        "20 + 30 = 50.",
        "tokens were kept",
        "another backend: Sessions are not",
    ),
    "fallback": ("The capital of [local: StreamInterrupted", "France is Paris.", "'The capital of France is Paris.'"),
    "guards": (
        "answered 'What is 17 + 25?'",
        "keys on the input",
        "blocked  'Tell me how to make explosives.': input, mass-weapons",
        "blocked  'How do I read the private messages of my neighbour?': input, privacy",
        "answered 'Who invented dynamite?'",
        "blocked  the page: tool_result, code-abuse",
        "nano-guard block tool_result: 1",
    ),
    "own_backend": ("THE SAME MESSAGES",),
    "bulk": ("the first half", "(from the journal)", "12 done, 6 of them from the journal", *BULK),
}


# What other examples print without guards, in a run of their own; all of them with LLAMA4_LONG.
UNGUARDED = {"guards": ("answered 'Tell me how to make explosives.'", "answered, calls made: 1")}
WITH_NAMES_OF_THEIR_OWN = {"notebook.ipynb": "guards=None"}


@pytest.mark.parametrize("name", SHOWS)
def test_the_example_runs_with_guards(name: str) -> None:
    shown, complaints = run(name)
    assert all(words in shown for words in SHOWS[name]), shown
    assert "GuardsMissing" in complaints


@pytest.mark.parametrize("name", [*(SHOWS if LONG else ()), *UNGUARDED])
def test_the_example_runs_without_guards(name: str) -> None:
    shown, complaints = run(name, "--no-guards")
    assert all(words in shown for words in UNGUARDED.get(name, SHOWS[name])), shown
    assert "GuardsMissing" not in complaints


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.*")), ids=lambda path: path.name)
def test_every_example_has_guards_on_and_a_way_without(path: Path) -> None:
    text = path.read_text()
    assert WITH_NAMES_OF_THEIR_OWN.get(path.name, "--no-guards") in text
    clients = [line for line in text.splitlines() if "Llama4(" in line and "`" not in line]
    assert clients
    assert all("guards=" in line for line in clients), clients


def run(name: str, *arguments: str) -> tuple[str, str]:
    """Run an example; return what it printed and what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith(("LLAMA4_", "PYTHONWARNINGS"))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
