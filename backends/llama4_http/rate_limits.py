"""Rate limits as servers name them in headers: pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")


def rate_limits(headers: Mapping[str, str]) -> dict[str, float]:
    """Return the limits that the headers of an answer name; headers that cannot be read are passed over.

    Args:
        headers: Names in lower case.

    Returns:
        Under `requests` and `tokens` those of a minute; under `wait` the seconds until more may be sent, where nothing
        is left now.
    """
    limits: dict[str, float] = {}
    for kind in ("requests", "tokens"):
        most = _number(headers.get(f"x-ratelimit-limit-{kind}", ""))
        if most:
            limits[kind] = most
        if _number(headers.get(f"x-ratelimit-remaining-{kind}", "")) == 0:
            reset = _seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))
            if reset is not None:
                limits["wait"] = max(limits.get("wait", 0.0), reset)
    return limits


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds(text: str) -> float | None:
    """Return the seconds of `6m0s`, `20ms` or `1.5`; None for anything else, such as a point in time."""
    plain = _number(text)
    if plain is not None:
        return plain if plain <= 86_400 else None
    spans = _SPAN.findall(text)
    if not spans or "".join(number + unit for number, unit in spans) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in spans)
