"""Token counts and progress as servers send them: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama4sdk.errors import ProtocolError
from llama4sdk.events import Progress, Usage


def read_usage(value: Any, image_tokens: int) -> Usage:
    """Return the token counts of a `usage` object.

    Args:
        value: The object; a count may be `5`, `5.0`, `"5"`, or null or false for none.
        image_tokens: Tokens that stand for the request's images, for servers that do not count them.

    Raises:
        ProtocolError: For anything else.
    """
    if not isinstance(value, Mapping):
        raise ProtocolError("The server sent token counts that are no counts.")
    details = value.get("prompt_tokens_details") or value.get("input_tokens_details")
    details = details if isinstance(details, Mapping) else {}
    prompt = _count(value.get("prompt_tokens", value.get("input_tokens")))
    completion = value.get("completion_tokens", value.get("output_tokens"))
    return Usage(
        prompt,
        max(0, _count(value.get("total_tokens")) - prompt) if completion is None else _count(completion),
        _detail(details.get("image_tokens")) or image_tokens,
        _detail(details.get("cached_tokens")),
    )


def usage_of(value: Mapping[str, Any]) -> object:
    """Return the token counts of an event, which some servers put into its choice or into a field of their own."""
    choices, groq = value.get("choices"), value.get("x_groq")
    choice = choices[0] if isinstance(choices, list) and choices else None
    places = (value, choice, groq)
    return next((place["usage"] for place in places if isinstance(place, Mapping) and place.get("usage")), None)


def read_progress(value: Any) -> Progress:
    """Return the progress that a `prompt_progress` object reports.

    Raises:
        ProtocolError: When it is no such object.
    """
    if not isinstance(value, Mapping):
        raise ProtocolError("The server sent a progress that is no object.")
    return Progress("prefill", _count(value.get("processed")), _count(value.get("total")) or None, "tokens")


def _detail(value: object) -> int:
    """Return a count that the others do not depend on: 0 where it cannot be read."""
    try:
        return _count(value)
    except ProtocolError:
        return 0


def _count(value: object) -> int:
    if value is None or isinstance(value, bool):
        return 0
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or not 0 <= value < 2**53:
        raise ProtocolError("The server sent token counts that are no counts.")
    return value
