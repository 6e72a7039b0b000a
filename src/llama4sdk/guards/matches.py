"""Stretches of a text that rules match."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

# A stretch of the text, and the rule that matched it.
Match: TypeAlias = tuple[int, int, str]
Finder: TypeAlias = Callable[[str], Iterator[Match]]
_MOST_REMEMBERED: Final = 16_384  # pieces


class Remembered:
    """Remembers the matches in pieces of text, since each check of a growing answer reads its beginning again.

    Pieces are kept as hashes.

    Args:
        find: Returns the matches in a piece.
    """

    def __init__(self, find: Callable[[str], Iterable[Match]]) -> None:
        self._find = find
        self._matches: OrderedDict[bytes, tuple[Match, ...]] = OrderedDict()

    def __call__(self, piece: str) -> tuple[Match, ...]:
        """Return the matches in a piece, at offsets within it."""
        key = hashlib.sha256(piece.encode(errors="surrogatepass")).digest()
        matches = self._matches.get(key)
        if matches is None:
            matches = self._matches[key] = tuple(self._find(piece))
            if len(self._matches) > _MOST_REMEMBERED:
                self._matches.popitem(last=False)
        return matches


def pieces(text: str, *, size: int, shared: int) -> Iterator[tuple[int, str]]:
    """Yield pieces of a text with their offsets; they stay the same while the text grows, but for the last.

    Args:
        text: The text.
        size: Characters of a piece.
        shared: Characters that neighbours share.
    """
    for start in range(0, max(1, len(text) - shared), size - shared):
        yield start, text[start : start + size]
