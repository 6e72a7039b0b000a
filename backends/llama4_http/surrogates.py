"""Halves of surrogate pairs, which servers that cut text at UTF-16 units send in two stretches: joined. Pure."""

from __future__ import annotations

from llama4sdk.surrogates import REPLACEMENT, mended


class SurrogateJoiner:
    """Joins pairs that are cut between two stretches of one text."""

    def __init__(self) -> None:
        self._high = ""  # the first half of a pair, until its second half arrives

    @property
    def pending(self) -> bool:
        """Whether the first half of a pair waits for its second."""
        return self._high != ""

    def feed(self, text: str) -> str:
        """Return the text that is certain now: without surrogates, and without a first half at its end."""
        if self._high:
            text, self._high = self._high + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._high = text[:-1], text[-1]
        return mended(text)

    def close(self) -> str:
        """Return U+FFFD for a first half whose second never came, else nothing."""
        high, self._high = self._high, ""
        return REPLACEMENT if high else ""
