"""Text of others on a terminal, which obeys control characters, and lines that are typed there."""

from __future__ import annotations

import importlib
from contextlib import suppress

# Line breaks and tabs stay; the others are shown by Unicode's signs for them, those above 0x7f as unknown characters.
_TABLE: dict[int, int | None] = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    ord("\r"): None,
}
_REFERS = "; see __cause__."  # at the end of an error that stands for a foreign one


def harmless(text: str) -> str:
    """Return a text whose control characters are shown, so that it cannot clear a screen or write to a clipboard."""
    return text.translate(_TABLE)


def in_words(error: BaseException) -> str:
    """Return the message of an error, and that of its cause where the message refers a program to it."""
    text = str(error)
    told = text.removesuffix(_REFERS)
    if told == text:
        return text
    cause = in_words(error.__cause__) if error.__cause__ is not None else ""
    return f"{told}: {cause}" if cause else f"{told}."


def typed_line(prompt: str) -> str:
    """Return a line that is typed, with the keys that edit it; lines that are pasted at once are one.

    Raises:
        EOFError: At the end of the input.
    """
    with suppress(ImportError):  # some builds of Python have none: the line is read without these keys
        importlib.import_module("readline")  # input() uses it once it is loaded
    return input(prompt)
