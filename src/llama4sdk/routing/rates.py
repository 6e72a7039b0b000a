"""Rates per minute as levels that fill up again: what may be sent now, and when the rest may. Pure."""

from __future__ import annotations

import math

_MINUTE = 60.0
_SLOWER = 0.8  # of a rate at which a server refused
_FASTER = 1.01  # of a rate at which it answered
_LEAST = 0.05  # of the rate that was asked for


class Rate:
    """A level that fills up by a rate and sinks with all that is sent.

    What is larger than the level can ever be is sent when it is full, and paid back before the next.

    Args:
        per_minute: The rate; None for no limit.
        burst: Seconds of the rate that may be saved up while nothing is sent.
        least: What may be saved up at the least.
        now: The time.
    """

    def __init__(self, per_minute: float | None, *, burst: float, least: float, now: float) -> None:
        self._asked = math.inf if per_minute is None else per_minute / _MINUTE
        self._ceiling = self._per_second = self._asked
        self._burst, self._least = burst, least
        self._level = self._most
        self._at = now

    @property
    def per_minute(self) -> float:
        """The rate that is kept now."""
        return self._per_second * _MINUTE

    def wait_for(self, amount: float, now: float, *, ahead: float = 0.0) -> float:
        """Return the seconds until so much may be sent, after all that waits ahead of it."""
        if self._per_second == math.inf:
            return 0.0
        return max(ahead + min(amount, self._most) - self._now(now), 0.0) / self._per_second

    def take(self, amount: float, now: float) -> None:
        """Count what is sent; a negative amount was counted too much before."""
        if self._per_second != math.inf:
            self._level, self._at = min(self._now(now) - amount, self._most), now

    def allow(self, per_minute: float, now: float) -> None:
        """Keep to a rate that the server names, where it is lower than the one that was asked for."""
        if per_minute > 0:
            self._ceiling = min(self._asked, per_minute / _MINUTE)
            self._keep(min(self._ceiling, self._per_second), now)

    def refused(self, now: float) -> None:
        """Slow down: the server refused a request."""
        if self._per_second != math.inf:
            self._keep(max(self._per_second * _SLOWER, self._ceiling * _LEAST), now)

    def answered(self, now: float) -> None:
        """Go back, step by step, to the rate that is allowed."""
        if self._per_second < self._ceiling:
            self._keep(min(self._per_second * _FASTER, self._ceiling), now)

    @property
    def _most(self) -> float:
        return max(self._per_second * self._burst, self._least)

    def _now(self, now: float) -> float:
        return min(self._level + max(now - self._at, 0.0) * self._per_second, self._most)

    def _keep(self, per_second: float, now: float) -> None:
        level = self._least if self._per_second == math.inf else self._now(now)
        self._per_second, self._at = per_second, now
        self._level = min(level, self._most)
