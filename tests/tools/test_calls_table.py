"""What the reader makes of texts: calls, and the text that is left."""

from __future__ import annotations

import pytest

from llama4sdk.tools import CallsRead, read_calls
from tools.call_cases import CASES, TOOLS, Call


@pytest.mark.parametrize(("text", "calls", "left"), CASES, ids=[case[0][:60] or "nothing" for case in CASES])
def test_a_text_is_read_exactly(text: str, calls: list[Call], left: str) -> None:
    assert seen(read_calls(text, TOOLS)) == (calls, left)


def test_the_table_has_at_least_150_cases() -> None:
    assert len({case[0] for case in CASES}) >= 150


def test_booleans_are_not_numbers() -> None:
    call = read_calls("[f(a=True, b=1, c=1.0)]", TOOLS).calls[0]
    assert [type(value) for value in call.arguments.values()] == [bool, int, float]


def seen(read: CallsRead) -> tuple[list[Call], str]:
    return [(call.name, call.arguments) for call in read.calls], read.text
