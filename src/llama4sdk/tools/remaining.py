"""The text that is left when calls, and the marks around them, are taken out of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from llama4sdk.events import TextDelta, TokenLogprob
from llama4sdk.tools.marks import ends_in_mark, leading, trailing, without_closing, without_ends, without_marks

if TYPE_CHECKING:
    from llama4sdk.tools.source import Source


class RemainingText:
    """Gathers text, and holds white space and marks back until it is certain whether a call stands next to them.

    Marks before a call, and closing ones after it, are left out; so are marks that end an answer with calls.

    Args:
        source: Where the text is read from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._said: list[str] = []
        self._upto = 0  # where in the whole text that ends
        self._held = ""  # white space and whole marks
        self._last = ""
        self._after_call = False
        self._calls = False
        self._logprobs: deque[tuple[int, int, tuple[TokenLogprob, ...]]] = deque()

    @property
    def last(self) -> str:
        """The character before, when it is text; empty at the beginning, after a call and after a mark."""
        if not self._held:
            return self._last
        return "" if ends_in_mark(self._held) else self._held[-1]

    def arrived(self, length: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Note the log-probabilities of the next `length` characters of the source."""
        if logprobs:
            self._logprobs.append((self._source.offset, self._source.offset + length, logprobs))

    def say(self, text: str) -> bool:
        """Take text in that is no call, and return whether it is more than white space and marks next to a call."""
        if self._after_call:
            begin = leading(text)
            self._held = without_closing(self._held + text[:begin])
            text = text[begin:]
        end = trailing(text)
        if end:
            self._said += [self._held, text[:end]]
            self._held = ""
            self._last = text[end - 1]
            self._upto = self._source.offset
            self._after_call = False
        self._held += text[end:]
        return end > 0

    def call_read(self) -> None:
        """Note that a call was read up to here, or that one came beside the text."""
        self._after_call = self._calls = True
        self._last = ""
        self._held = without_marks(self._held)
        while self._logprobs and self._logprobs[0][1] <= self._source.offset:
            self._logprobs.popleft()

    def end(self) -> None:
        """Say the white space at the end, unless it follows a call, and marks that close no call."""
        held = without_ends(self._held) if self._calls else self._held
        self._held = ""
        if held and not self._after_call:
            self._said.append(held)
            self._upto = self._source.offset

    def events(self) -> list[TextDelta]:
        """Return what was said since the last time: one event, or none."""
        text, self._said = "".join(self._said), []
        if not text:
            return []
        logprobs: list[TokenLogprob] = []
        while self._logprobs and self._logprobs[0][0] < self._upto:
            logprobs += self._logprobs.popleft()[2]
        return [TextDelta(text, tuple(logprobs))]
