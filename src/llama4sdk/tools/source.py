"""Text that arrives in pieces, as a parser sees it that may have to wait for the next one."""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import TypeAlias, TypeVar

_T = TypeVar("_T")

# A parser is a generator: it yields when it needs more text, and returns what it has read.
Reading: TypeAlias = Generator[None, None, _T]

MAX_LENGTH = 1_000_000
"""Characters that one call may take; a longer one is text."""


class NotACallError(Exception):
    """The text read so far is no tool call; it never leaves this package."""


class Source:
    """The text so far, with a mark where the stretch under consideration begins.

    Everything depends on characters alone, never on where the pieces were cut.
    """

    def __init__(self) -> None:
        self.text = ""
        """The piece at hand."""
        self.pos = 0
        """The place in it."""
        self.closed = False
        """Whether this piece is the last."""
        self._before = 0  # characters in the pieces before
        self._held: list[str] = []  # what was taken since the mark, of pieces before
        self._mark = 0  # where the stretch begins in the piece at hand
        self._limit: int | None = None

    def feed(self, piece: str) -> None:
        """Put the next piece in the place of one that is used up."""
        if self._limit is not None:
            self._held.append(self.text[self._mark :])
        self._before += len(self.text)
        self.text, self.pos, self._mark = piece, 0, 0

    @property
    def offset(self) -> int:
        """Characters read since the beginning."""
        return self._before + self.pos

    def begin(self) -> None:
        """Set the mark here."""
        self._held, self._mark = [], self.pos
        self._limit = self.offset + MAX_LENGTH

    def take(self) -> str:
        """Return what was read since the mark, and remove it."""
        taken = "".join([*self._held, self.text[self._mark : self.pos]])
        self._held, self._limit = [], None
        return taken

    def peek(self) -> Reading[str]:
        """Return the next character without reading it; at the end an empty string."""
        while self.pos >= len(self.text):
            if self.closed:
                return ""
            yield
        if self._limit is not None and self.offset >= self._limit:
            raise NotACallError
        return self.text[self.pos]

    def room(self) -> int:
        """Return where in the piece at hand reading must stop at the latest."""
        if self._limit is None:
            return len(self.text)
        return min(len(self.text), self._limit - self._before)

    def skip_space(self) -> Reading[str]:
        """Read white space, and return the character after it."""
        while (char := (yield from self.peek())).isspace():
            self.pos += 1
        return char

    def expect(self, char: str) -> Reading[None]:
        """Read white space and this character."""
        if (yield from self.skip_space()) != char:
            raise NotACallError
        self.pos += 1

    def one_of(self, choices: Collection[str]) -> Reading[str]:
        """Read one of the strings, none of which begins another; fails at the first character that fits none."""
        read = ""
        while read not in choices:
            char = yield from self.peek()
            if not char or not any(choice.startswith(read + char) for choice in choices):
                raise NotACallError
            read += char
            self.pos += 1
        return read

    def name(self, names: Collection[str]) -> Reading[str]:
        """Read the longest run of name characters; it must be one of the names."""
        read = ""
        while (char := (yield from self.peek())) and (char.isalnum() or char in "_-."):
            read += char
            if not any(name.startswith(read) for name in names):
                raise NotACallError
            self.pos += 1
        if read not in names:
            raise NotACallError
        return read
