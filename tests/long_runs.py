"""How much the random tests do: a little in the suite, much where `LLAMA4_LONG=1` is set."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

import pytest

Case = TypeVar("Case")

LONG = os.environ.get("LLAMA4_LONG") == "1"


def often(usually: int, long: int) -> int:
    """Return how often something is done."""
    return long if LONG else usually


def thinned(cases: Iterable[Case], step: int) -> list[Case]:
    """Return every so many-th case, from the first on; all of them where `LLAMA4_LONG=1` is set."""
    return list(cases)[:: 1 if LONG else step]


def only_long(reason: str) -> pytest.MarkDecorator:
    """Return a mark for tests that run where `LLAMA4_LONG=1` is set."""
    return pytest.mark.skipif(not LONG, reason=f"{reason}: LLAMA4_LONG=1")
