"""Where a very long text is cut before it is tokenized.

Meta's tokenizer encodes a text in slices of 400,000 characters and breaks runs of more than 25,000 characters
that are all white space, or all not. Its answer for such texts depends on these cuts, so they are the same
here; they also bound the work that a single regular-expression match or merge can take.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SLICE = 400_000  # characters
MAX_RUN = 25_000  # characters
_RUN = re.compile(r"\s+|\S+")


def pieces(text: str) -> Iterator[str]:
    """Yield the parts of a text that are encoded on their own; joined they are the text."""
    for start in range(0, len(text), MAX_SLICE):
        yield from _without_long_runs(text[start : start + MAX_SLICE])


def _without_long_runs(text: str) -> Iterator[str]:
    start = 0
    if len(text) > MAX_RUN:
        for cut in _cuts(text):
            yield text[start:cut]
            start = cut
    yield text[start:]


def _cuts(text: str) -> Iterator[int]:
    for run in _RUN.finditer(text):
        yield from range(run.start() + MAX_RUN, run.end(), MAX_RUN)
