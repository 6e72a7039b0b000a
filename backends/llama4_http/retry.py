"""Which failures are tried again, and when: pure.

Only a request without its first event is sent again. The wait is drawn from the whole interval up to a doubling
bound ("full jitter", M. Brooker, AWS Architecture Blog 2015), so that clients that fail together come back spread.
A wait that the server asks for is never shortened; the jitter is added to it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from llama4sdk.checks import check_flag, check_number, check_whole
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ANSWERED = frozenset({200, 201, 203})  # some gateways call an answer created, or changed on its way
RETRIED_STATUSES = frozenset({408, 409, 429})  # and every 5xx
MAX_RETRY_AFTER = 3600.0  # seconds; a server that asks for more is reported as asking for this
MAX_WAIT = 60.0  # seconds; a longer wait is left to the caller


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and after what, a request is sent again.

    Args:
        times: Most times that it is sent again; 0 for never a second POST.
        resend: Whether to send again when the connection broke after the request went out and before
            an answer came. The server may have begun to work on it, and that work is paid for twice.
        first_wait: Upper bound of the first wait in seconds; it doubles with each try.
        longest_wait: Where the doubling ends, in seconds.

    Raises:
        InvalidRequest: For a negative number.
    """

    times: int = 2
    resend: bool = False
    first_wait: float = 0.5
    longest_wait: float = 8.0

    def __post_init__(self) -> None:
        check_whole("times", self.times, 0, 1_000_000, optional=False)
        check_flag("resend", self.resend)
        for name in ("first_wait", "longest_wait"):
            if getattr(self, name) is None:
                raise InvalidRequest(f"{name} must be a number of seconds; leave it out for the default.")
            check_number(name, getattr(self, name), 0, math.inf)

    def wait_before(
        self,
        attempt: int,
        *,
        retry_after: float | None = None,
        left: float = math.inf,
        draw: Callable[[], float] = random.random,
    ) -> float | None:
        """Return how many seconds to wait before sending again, or None to give up.

        Args:
            attempt: How often it has been sent so far, from 1.
            retry_after: Seconds that the server asked for, when it did.
            left: Seconds until the deadline: no wait reaches beyond it.
            draw: A source of numbers in [0, 1).
        """
        if attempt > self.times:
            return None
        bound = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt - 1, 60))
        asked = retry_after or 0.0
        if asked:
            bound = max(0.0, min(bound, MAX_WAIT - asked, (left - asked) / 2))
        wait = asked + draw() * bound
        return wait if wait <= MAX_WAIT and wait < left else None


def retried_status(status: int, headers: Mapping[str, str] | None = None) -> bool:
    """Return whether an answer of this HTTP status is worth another try; `x-should-retry` of the server decides.

    Args:
        status: The HTTP status, other than 200.
        headers: The answer's headers, names in lower case.
    """
    word = (headers or {}).get("x-should-retry", "").strip().lower()
    if word in ("true", "false"):
        return word == "true"
    return status in RETRIED_STATUSES or 500 <= status <= 599


def asked_wait(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Return the seconds that an answer's headers ask to wait: `Retry-After-Ms`, else `Retry-After`."""
    milliseconds = headers.get("retry-after-ms")
    try:
        seconds = float(milliseconds) / 1000 if milliseconds is not None else math.nan
    except ValueError:
        seconds = math.nan
    return retry_after(headers.get("retry-after"), now=now) if math.isnan(seconds) else _clamped(seconds)


def retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, from 0 to `MAX_RETRY_AFTER`.

    Both forms are read (RFC 9110, section 10.2.3): seconds and a date. A past or negative one is 0; an
    unreadable one, `nan` included, is None.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return _until(value, now or datetime.now(UTC))
    return None if math.isnan(seconds) else _clamped(seconds)


def _until(value: str, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return _clamped((moment - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _clamped(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
