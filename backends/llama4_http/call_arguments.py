"""The arguments of a tool call as servers send them → a dict, or the reason why there is none: pure."""

from __future__ import annotations

import json
from typing import Any

from llama4_http.json_text import is_finite
from llama4_http.surrogates import mended_value

_WRAPPED = 2  # how often an object may stand inside a JSON string


def arguments_of(text: str) -> tuple[dict[str, Any], str | None]:
    """Return the arguments that a JSON text holds, and the problem with it, in words for the model.

    Blanks and null are no arguments, and an object inside a JSON string is unwrapped. Lone surrogates become
    U+FFFD. With a problem, the arguments are empty.
    """
    value: Any = text
    for _ in range(_WRAPPED + 1):
        if not isinstance(value, str):
            break
        if not value.strip():
            return {}, None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            return {}, _problem(error)
    if value is None:
        return {}, None
    if not isinstance(value, dict):
        return {}, _told("they are no JSON object")
    if not is_finite(value):
        return {}, _told("they hold a number that is not finite, or are nested too deeply")
    return mended_value(value), None


def is_whole(text: str) -> bool:
    """Return whether the text is one complete JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return _told(f"they are not valid JSON ({error.msg} at character {error.pos})")
    return _told("they are not valid JSON")


def _told(reason: str) -> str:
    return f"The call was not run, because its arguments could not be read: {reason}. Call again with one JSON object."
