"""Stop strings, found across any cut of the text."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string, which itself never comes out.

    What may yet turn out to be the beginning of a stop string is held back until it is certain. Each
    string is followed by its own Knuth-Morris-Pratt automaton, so time is linear in the text.

    Args:
        stops: The strings, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, _fallbacks(stop)) for stop in stops]
        self._matched = [0] * len(self._stops)
        self._held = ""

    def push(self, text: str, *, armed: bool = True) -> tuple[str, bool]:
        """Take the next text and return what is certain now, and whether a stop string ended it.

        Args:
            text: What comes next.
            armed: Whether a stop string that ends in this text counts; else it passes as text.
        """
        if not self._stops:
            return text, False
        pending = self._held + text
        for place, char in enumerate(text, start=len(self._held) + 1):
            hit = self._step(char)
            if hit and armed:
                self._held = ""
                return pending[: place - hit], True
        certain = len(pending) - max(self._matched)
        self._held = pending[certain:]
        return pending[:certain], False

    def flush(self) -> str:
        """Return what was held back: the text ended before it became a stop string."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self._stops)
        return held

    def _step(self, char: str) -> int:
        """Advance every automaton; return the length of the longest string that ends here, or 0."""
        hit = 0
        for index, (stop, fallbacks) in enumerate(self._stops):
            matched = self._matched[index]
            while matched and stop[matched] != char:
                matched = fallbacks[matched - 1]
            matched += stop[matched] == char
            if matched == len(stop):
                hit = max(hit, matched)
                matched = fallbacks[-1]
            self._matched[index] = matched
        return hit


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of `stop`, the length of its longest proper border."""
    borders = [0] * len(stop)
    for end in range(1, len(stop)):
        border = borders[end - 1]
        while border and stop[border] != stop[end]:
            border = borders[border - 1]
        borders[end] = border + (stop[border] == stop[end])
    return borders
