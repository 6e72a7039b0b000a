"""The model's marks around tool calls, which servers at times leave in the text."""

from __future__ import annotations

import re
from typing import Final

OPENING_MARKS: Final = frozenset({"<|python_start|>", "<|python_tag|>"})
"""Marks that may open a call."""

_ENDS: Final = frozenset({"<|eom|>", "<|eot|>", "<|eom_id|>", "<|eot_id|>"})
CLOSING_MARKS: Final = _ENDS | {"<|python_end|>"}
"""Marks that end a call or an answer."""

MARKS: Final = OPENING_MARKS | CLOSING_MARKS

_CLOSING: Final = "|".join(re.escape(mark) for mark in sorted(CLOSING_MARKS))
_OPENING: Final = "|".join(re.escape(mark) for mark in sorted(OPENING_MARKS))
_ANY = re.compile(f"{_OPENING}|{_CLOSING}")
_END = re.compile("|".join(re.escape(mark) for mark in sorted(_ENDS)))
_CLOSED = re.compile(rf"(?:(?:{_OPENING})\s*)?(?:{_CLOSING})")
_LEADING = re.compile(rf"(?:[\s;,]|{_OPENING}|{_CLOSING})*")


def without_marks(text: str) -> str:
    """Return a text without any marks."""
    return _ANY.sub("", text) if "<|" in text else text


def without_ends(text: str) -> str:
    """Return a text without the marks that end an answer."""
    return _END.sub("", text) if "<|" in text else text


def without_closing(text: str) -> str:
    """Return a text without marks that close something, and without those that such a mark closes."""
    return _CLOSED.sub("", text) if "<|" in text else text


def ends_in_mark(text: str) -> bool:
    """Return whether a mark is the last thing in a text."""
    return any(text.endswith(mark) for mark in MARKS)


def trailing(text: str) -> int:
    """Return where the white space and marks at the end of a text begin."""
    if "<|" not in text:
        return len(text.rstrip())
    end = len(text)
    while True:
        end = len(text[:end].rstrip())
        mark = next((mark for mark in MARKS if text.endswith(mark, 0, end)), None)
        if mark is None:
            return end
        end -= len(mark)


def leading(text: str) -> int:
    """Return where the separators and marks at the beginning of a text end."""
    match = _LEADING.match(text)
    return match.end() if match else 0
