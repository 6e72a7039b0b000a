"""Which deadline ends a wait, over all tries together: pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llama4sdk.errors import DeadlineExceeded, Phase

if TYPE_CHECKING:
    from llama4sdk.errors import PartialReply
    from llama4sdk.request import Deadlines


class Clock:
    """The deadlines of one request.

    Args:
        deadlines: Seconds for each phase.
        begun: The time at which the request began, in seconds of any steady clock.
    """

    def __init__(self, deadlines: Deadlines, begun: float) -> None:
        self._deadlines = deadlines
        self._idle = math.inf if deadlines.idle is None else deadlines.idle
        self._total = math.inf if deadlines.total is None else begun + deadlines.total
        self._first = math.inf if deadlines.first_token is None else begun + deadlines.first_token
        self.answering = False
        """Whether the model's own first event has come."""

    def begin_first_token(self, now: float) -> None:
        """Count the `first_token` deadline from now on."""
        self._first = math.inf if self._deadlines.first_token is None else now + self._deadlines.first_token

    def limit(self, now: float, *, held: bool = False) -> tuple[Phase, float]:
        """Return when a wait that begins now must end, and the phase that ends it; held, none ends by `first_token`."""
        if self.answering:
            until = now + self._idle
            return ("total", self._total) if self._total <= until else ("idle", until)
        until = math.inf if held else self._first
        return ("total", self._total) if self._total <= until else ("first_token", until)

    def exceeded(self, phase: Phase, partial: PartialReply | None = None) -> DeadlineExceeded:
        """Return the error of a phase that took too long."""
        seconds = getattr(self._deadlines, phase)
        return DeadlineExceeded(
            f"The {phase} deadline of {seconds:g} s passed; raise Deadlines({phase}=…) if that is too short.",
            phase=phase,
            partial=partial,
        )
