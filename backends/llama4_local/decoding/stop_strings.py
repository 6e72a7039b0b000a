"""Stop strings, across any cut of the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopStrings:
    """Passes text on up to the first stop string, which itself never comes out.

    The longest end of the text that may yet grow into a stop string is held back.

    Args:
        stops: The strings, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str, *, armed: bool = True) -> tuple[str, bool]:
        """Take the next text; return the part that is certain, and whether a stop string ended it.

        Args:
            text: The text that follows.
            armed: Whether a stop string that ends in this text counts; else it passes as text.
        """
        pending = self._held + text
        match = self._first_match(pending, seen=len(self._held)) if armed else None
        if match is not None:
            self._held = ""
            return pending[:match], True
        certain = min((_partial_match(pending, stop) for stop in self._stops), default=len(pending))
        self._held = pending[certain:]
        return pending[:certain], False

    def flush(self) -> str:
        """Return the text that was held back: it ended before it became a stop string."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, pending: str, *, seen: int) -> int | None:
        """Where the stop string begins that ends first, of several the longest; its end lies beyond `seen`."""
        matches = [
            (start + len(stop), start)
            for stop in self._stops
            if (start := pending.find(stop, max(0, seen - len(stop) + 1))) >= 0
        ]
        return min(matches)[1] if matches else None


def _partial_match(pending: str, stop: str) -> int:
    """Where the longest end of `pending` that begins `stop` without completing it starts; its length without any."""
    start = pending.find(stop[0], max(0, len(pending) - len(stop) + 1))
    while start >= 0 and not stop.startswith(pending[start:]):
        start = pending.find(stop[0], start + 1)
    return len(pending) if start < 0 else start
