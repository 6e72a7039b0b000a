"""The text that is left when the calls are taken out of it."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from llama4sdk.events import TextDelta, TokenLogprob

if TYPE_CHECKING:
    from llama4sdk.tools.source import Source

_SEPARATORS = re.compile(r"[\s;,]*")


class RemainingText:
    """Gathers text, and keeps white space back until it is known whether a call stands next to it.

    Args:
        source: Where the text is read from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._said: list[str] = []
        self._upto = 0  # where in the whole text that ends
        self._space: list[str] = []
        self._last = ""
        self._after_call = False
        self._logprobs: deque[tuple[int, int, tuple[TokenLogprob, ...]]] = deque()

    @property
    def last(self) -> str:
        """The character before, when it is text; empty at the beginning and after a call."""
        return self._space[-1][-1] if self._space else self._last

    def arrived(self, length: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Note the log-probabilities of the next `length` characters of the source."""
        if logprobs:
            self._logprobs.append((self._source.offset, self._source.offset + length, logprobs))

    def say(self, text: str) -> bool:
        """Take text in that is no call, and return whether it is more than white space next to a call."""
        if self._after_call:
            text = self._after_separators(text)
        body = text.rstrip()
        if body:
            self._said += [*self._space, body]
            self._space = []
            self._last = body[-1]
            self._upto = self._source.offset
            self._after_call = False
        if len(body) < len(text):
            self._space.append(text[len(body) :])
        return bool(body)

    def call_read(self) -> None:
        """Note that a call was read up to here."""
        self._after_call = True
        self._last = ""
        while self._logprobs and self._logprobs[0][1] <= self._source.offset:
            self._logprobs.popleft()

    def end(self) -> None:
        """Say the white space at the end, unless it follows a call."""
        if self._space and not self._after_call:
            self._said += self._space
            self._upto = self._source.offset
            self._space = []

    def events(self) -> list[TextDelta]:
        """Return what was said since the last time: one event, or none."""
        text, self._said = "".join(self._said), []
        if not text:
            return []
        logprobs: list[TokenLogprob] = []
        while self._logprobs and self._logprobs[0][0] < self._upto:
            logprobs += self._logprobs.popleft()[2]
        return [TextDelta(text, tuple(logprobs))]

    def _after_separators(self, text: str) -> str:
        match = _SEPARATORS.match(text)
        rest = text[match.end() :] if match else text
        if len(rest) < len(text):
            self._space.append(text[: len(text) - len(rest)])
        return rest
