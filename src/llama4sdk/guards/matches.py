"""Stretches of a text that rules match."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

# A stretch of the text, and the rule that matched it.
Match: TypeAlias = tuple[int, int, str]
Finder: TypeAlias = Callable[[str], Iterator[Match]]
