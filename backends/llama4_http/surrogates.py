"""Halves of surrogate pairs, which servers that cut text at UTF-16 units send: joined, or replaced. Pure."""

from __future__ import annotations

import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def mended(text: str) -> str:
    """Return the text with whole pairs joined and every lone surrogate replaced by U+FFFD."""
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mended_value(value: Any) -> Any:
    """Return a JSON value with `mended` applied to every string in it, keys included."""
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, dict):
        return {mended(str(key)): mended_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mended_value(item) for item in value]
    return value


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
