"""A circuit breaker: a backend that fails again and again rests, and is then tried by one request at a time."""

from __future__ import annotations

from dataclasses import dataclass

from llama4sdk.checks import check_number, check_whole

LONGEST_REST = 3600.0  # seconds that a server may ask for


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a backend rests, and for how long.

    Args:
        failures: Failures in a row after which it rests.
        rest: Seconds of rest; then one request tries it, and its success ends the rest.

    Raises:
        InvalidRequest: For numbers out of range.
    """

    failures: int = 5
    rest: float = 30.0

    def __post_init__(self) -> None:
        check_whole("failures", self.failures, 1, optional=False)
        check_number("rest", self.rest, 0, 86_400)


class CircuitBreaker:
    """The state of one backend: closed, open while it rests, half open while one request tries it.

    Args:
        settings: When it opens, and for how long.
    """

    def __init__(self, settings: Breaker) -> None:
        self._settings = settings
        self._failures = 0
        self._rests_until: float | None = None
        self._probing = False
        self.era = 0
        """Counts failures: answers that one event breaks, however many, were begun in the same era."""

    @property
    def is_open(self) -> bool:
        """Whether the backend rests, or is being tried."""
        return self._rests_until is not None

    @property
    def rests_until(self) -> float:
        """When it may be tried; 0 while it is closed."""
        return self._rests_until or 0.0

    def admits(self, now: float) -> bool:
        """Return whether a request may be sent now."""
        return self._rests_until is None or (now >= self._rests_until and not self._probing)

    def begin(self) -> bool:
        """Count a request that is sent; return whether it is the one that tries a resting backend."""
        self._probing = self._rests_until is not None
        return self._probing

    def succeeded(self) -> None:
        """Close it: the backend answers."""
        self._failures, self._rests_until, self._probing = 0, None, False

    def failed(self, now: float, *, retry_after: float | None = None, begun: int | None = None) -> None:
        """Count a failure; a backend that asks to be left alone rests for as long as it asks, but an hour at most.

        Args:
            now: The event loop's time.
            retry_after: Seconds that the backend asked for.
            begun: For an answer that broke off, the era in which it began: of those that break together one counts.
        """
        if begun is None or begun == self.era:
            self._failures += 1
            self.era += 1
        tried, self._probing = self._probing, False
        rest = self._settings.rest if tried or self._failures >= self._settings.failures else 0.0
        rest = max(rest, min(retry_after or 0.0, LONGEST_REST))
        if rest:
            self._rests_until = max(self._rests_until or 0.0, now + rest)

    def left(self) -> None:
        """Count a request that tried the backend, and ended without telling anything of it."""
        self._probing = False
