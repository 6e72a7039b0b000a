"""The word list bites: a planted word is reported, and the repository has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[1] / "prose_check.py"


def run(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK, *files], capture_output=True, text=True, check=False)


def test_the_repository_passes() -> None:
    assert run().stdout == ""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('"""Rows that stand for nobody."""\n', "nobody"),
        ("x = 1  # whoever reads this\n", "whoever"),
        ('def f():\n    """Crash in peace."""\n', "in peace"),
        ('"""The picture of a cat."""\n', "picture"),
        ("# the engine wants a tensor\n", "engine wants"),
        ("found = []\n", "found"),
        ('"""What a batch is made of."""\n', "what"),
    ],
)
def test_a_planted_word_is_reported(tmp_path: Path, text: str, word: str) -> None:
    (planted := tmp_path / "planted.py").write_text(text)
    result = run(planted)
    assert result.returncode == 1
    assert f"planted.py:{text[: text.lower().index(word)].count(chr(10)) + 1}: " in result.stdout


def test_a_planted_word_in_markdown_is_reported_outside_code(tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text("Fine.\n\n```\nnobody\n```\n\nNobody reads this.\n")
    assert run(page).stdout.count("obody") == 1


def test_sentences_of_a_dialog_may_have_the_word(tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text('Ask "What is in this picture?" or `picture.png`.\n')
    assert run(page).returncode == 0
