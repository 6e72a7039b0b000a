"""The arguments of a tool call as servers and models write them → a dict, or the reason why there is none: pure."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from llama4sdk.surrogates import mended_value

_WRAPPED: Final = 2  # how often an object may stand inside a JSON string
_MAX_DEPTH: Final = 64


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
    if not _is_finite(value):
        return {}, _told("they hold a number that is not finite, or are nested too deeply")
    return mended_value(value), None


def is_whole(text: str) -> bool:
    """Return whether the text is one complete JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_finite(value: Any, depth: int = 0) -> bool:
    if depth > _MAX_DEPTH:
        return False
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(_is_finite(item, depth + 1) for item in value.values())
        case list():
            return all(_is_finite(item, depth + 1) for item in value)
        case _:
            return True


def _problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return _told(f"they are not valid JSON ({error.msg} at character {error.pos})")
    return _told("they are not valid JSON")


def _told(reason: str) -> str:
    return f"The call was not run, because its arguments could not be read: {reason}. Call again with one JSON object."
