"""How long the phases of a request took, as its reader's side measures them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from llama4sdk.events import Event, Progress, Started, Switched, UsageUpdate


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one request, counted from its beginning.

    Args:
        queued: Until the backend began with the prompt: its first report of `prefill`, or else its `Started`.
        first_token: Until the first event that is the model's own.
        total: Until the end; until now, while it runs.
        tokens_per_second: Tokens of the answer behind the first one, by the time from there to the end.
    """

    queued: float | None
    first_token: float | None
    total: float
    tokens_per_second: float | None


class Stopwatch:
    """Measures one request, by its events."""

    __slots__ = ("_began", "_end", "_queued", "_started", "first")

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._started: float | None = None
        self._queued: float | None = None
        self._end: float | None = None
        self.first: float | None = None
        """When the model's first own event came."""

    def note(self, event: Event) -> None:
        """Take an event into account, until the model's first own event came."""
        now = time.perf_counter()
        match event:
            case Started():
                self._started = now
            case Progress(phase="prefill"):
                self._queued = self._queued or now
            case Progress() | Switched() | UsageUpdate():
                pass
            case _:
                self.first = now

    def stop(self) -> None:
        """Note the end; the first call counts."""
        self._end = self._end or time.perf_counter()

    def timing(self, tokens: int) -> Timing:
        """Return the seconds so far.

        Args:
            tokens: Tokens of the answer.
        """
        end = self._end or time.perf_counter()
        writing = end - self.first if self.first is not None else 0.0
        return Timing(
            queued=self._since(self._queued or self._started),
            first_token=self._since(self.first),
            total=end - self._began,
            tokens_per_second=(tokens - 1) / writing if tokens > 1 and writing > 0 else None,
        )

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self._began
