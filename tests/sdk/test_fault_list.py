"""The sixty-six faults that the project promises to stand, and that each of them has a test with its number.

A test is named for the faults that it shows: `test_fault_54_…`, `test_fault_10_and_17_…`, `test_fault_11_12_13_14_…`;
what is promised in each case is what that test asserts.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
_NAMED = re.compile(r"test_fault_((?:\d\d(?:_and)?_)+)")

# By the folder whose part meets them; what several parts can meet has a test in each.
WHERE = {
    "http": [*range(1, 20), 44, 61, 62],
    "images": [*range(20, 41)],
    "prompting": [41, 42, 44, 45, 46, 65],
    "sdk": [43, 44, 50, 54, 58, 59, 60, 61],
    "output": [48, 49],
    "tools": [44, 49, 50, 51, 52, 53, 54],
    "local": [46, 47, 48, 49, *range(54, 67)],
}


def faults_shown() -> dict[int, set[str]]:
    """Return the folders of the tests that show a fault, by its number."""
    shown: dict[int, set[str]] = defaultdict(set)
    for file in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (named := _NAMED.match(node.name)):
                for number in re.findall(r"\d\d", named[1]):
                    shown[int(number)].add(file.relative_to(TESTS).parts[0])
    return shown


@pytest.mark.parametrize("folder", WHERE)
def test_every_fault_has_a_test_where_it_can_be_met(folder: str) -> None:
    shown = faults_shown()
    assert [number for number in WHERE[folder] if folder not in shown[number]] == []


def test_all_sixty_six_are_shown_and_no_others() -> None:
    assert set(faults_shown()) == set(range(1, 67))
