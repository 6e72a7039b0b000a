"""Windows over the tokens of a text: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a text.

    Args:
        ids: Token ids of each window.
        covered: Characters of the text that lie in some window; white space that no token holds counts with its
            neighbours.
    """

    ids: tuple[tuple[int, ...], ...]
    covered: int


def windows_of(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], text: str, *, size: int, overlap: int
) -> Windows:
    """Return windows that share `overlap` tokens with their neighbours and together hold every token.

    Args:
        ids: Token ids of the whole text, without special tokens.
        offsets: Where each token begins and ends in the text.
        text: The text.
        size: Most tokens of a window.
        overlap: Tokens that neighbours share; less than `size`.
    """
    step = max(1, size - overlap)
    starts = range(0, max(1, len(ids) - overlap), step) if ids else ()
    windows = tuple(tuple(ids[start : start + size]) for start in starts)
    return Windows(windows, _covered(offsets, text))


def _covered(offsets: Sequence[tuple[int, int]], text: str) -> int:
    """Return how many characters tokens stand for; a gap that holds more than white space is not covered."""
    covered, place = 0, 0
    for start, end in offsets:
        if start > place and not text[place:start].strip():
            covered += start - place
        covered += max(0, end - max(start, place))
        place = max(place, end)
    rest = text[place:]
    return covered + (len(rest) if not rest.strip() else 0)
