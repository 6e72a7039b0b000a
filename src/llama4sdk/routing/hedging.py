"""When a second request is worth its cost: latencies seen lately, and a budget."""

from __future__ import annotations

import math
import re
from collections import deque

from llama4sdk.checks import check_number, shown
from llama4sdk.errors import InvalidRequest

_WINDOW = 200  # latencies
_FEWEST = 20  # latencies that a percentile is taken of
_BURST = 10.0  # second requests that may be saved up


class FirstTokenLatency:
    """The wait for a first token after which a second request is sent.

    Args:
        after: Seconds, or a percentile of the waits seen lately, such as `p95`.

    Raises:
        InvalidRequest: For anything else.
    """

    def __init__(self, after: float | str) -> None:
        self._fixed: float | None = None
        self._percentile = 0.0
        if isinstance(after, str):
            match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", after)
            if match is None:
                raise InvalidRequest(f"after is a number of seconds or a percentile such as 'p95'; got {shown(after)}.")
            self._percentile = float(match[1])
        else:
            check_number("after", after, 0, math.inf)
            self._fixed = after
        self._seen: deque[float] = deque(maxlen=_WINDOW)

    def add(self, seconds: float) -> None:
        """Take in the wait of one request for its first token."""
        self._seen.append(seconds)

    @property
    def limit(self) -> float:
        """Seconds to wait; infinity until enough waits have been seen for a percentile."""
        if self._fixed is not None:
            return self._fixed
        if len(self._seen) < _FEWEST:
            return math.inf
        return sorted(self._seen)[min(int(len(self._seen) * self._percentile / 100), len(self._seen) - 1)]


class Budget:
    """Bounds second requests to a share of all.

    Args:
        share: Second requests for each first one, from 0 to 1; ten may be saved up, and are at the beginning.

    Raises:
        InvalidRequest: For a share out of range.
    """

    def __init__(self, share: float) -> None:
        check_number("budget", share, 0, 1)
        self._share = share
        self._saved = _BURST if share else 0.0

    def earn(self) -> None:
        """Count a first request."""
        self._saved = min(self._saved + self._share, _BURST)

    def spend(self) -> bool:
        """Take the cost of a second request; return False where it is not there."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
