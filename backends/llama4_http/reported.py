"""Errors that stand inside an answer of status 200, in the forms of servers and of gateways before them: pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORDS = ("message", "detail", "msg", "error_msg", "error_message")
_STATUS = ("code", "status_code", "status", "http_status", "error_code", "statusCode")
_TROUBLE = re.compile(r"error|fail|exception|exceed|timed? ?out|unavailable|denied|overload", re.IGNORECASE)


def reported(value: Mapping[str, Any]) -> object:
    """Return the error that an event or a body reports, or None.

    Args:
        value: The event; an `error` in it or in one of its choices counts, `errors`, a kind `error`, and words beside
            a failed status.
    """
    error = value.get("error")
    if error:
        return error
    if "error" in (value.get("object"), value.get("type")):
        return value
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        return next((choice["error"] for choice in choices if isinstance(choice, dict) and choice.get("error")), None)
    errors = value.get("errors")
    if isinstance(errors, list) and errors:
        return errors[0]
    failed = value.get("success") is False or status_in(value) is not None
    return value if failed and _has_words(value) else None


def may_report(value: Mapping[str, Any]) -> bool:
    """Return whether an event without choices holds words that tell of an error if nothing comes behind them."""
    return not (value.get("choices") or value.get("type") or value.get("object")) and _has_words(value)


def tells_of_trouble(text: str) -> bool:
    """Return whether an event that is plain text tells of an error."""
    return _TROUBLE.search(text) is not None


def status_in(value: Mapping[str, Any]) -> int | None:
    """Return the HTTP status of a failure that an error's fields name, as a number or its digits."""
    for key in _STATUS:
        number = value.get(key)
        if isinstance(number, str) and number.isdecimal() and len(number) == 3:
            number = int(number)
        if type(number) is int and 400 <= number <= 599:
            return number
    return None


def _has_words(value: Mapping[str, Any]) -> bool:
    return any(isinstance(value.get(key), str) and value[key] for key in _WORDS)
