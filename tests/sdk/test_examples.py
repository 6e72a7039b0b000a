"""Every example runs as a newcomer would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        "blocked  'How do I pick a lock?'",
        "tool_result, injection",
    ),
    "own_backend": ("THE SAME MESSAGES",),
    "bulk": ("the first half", "(from the journal)", "12 done, 6 of them from the journal", *BULK),
}


@pytest.mark.parametrize("name", SHOWS)
def test_the_example_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "LLAMA4_BACKEND"},
    )
    assert done.returncode == 0, done.stderr
    for shown in SHOWS[name]:
        assert shown in done.stdout
