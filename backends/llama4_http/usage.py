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
    details = value.get("prompt_tokens_details")
    details = details if isinstance(details, Mapping) else {}
    return Usage(
        _count(value.get("prompt_tokens")),
        _count(value.get("completion_tokens")),
        _count(details.get("image_tokens")) or image_tokens,
        _count(details.get("cached_tokens")),
    )


def read_progress(value: Any) -> Progress:
    """Return the progress that a `prompt_progress` object reports.

    Raises:
        ProtocolError: When it is no such object.
    """
    if not isinstance(value, Mapping):
        raise ProtocolError("The server sent a progress that is no object.")
    return Progress("prefill", _count(value.get("processed")), _count(value.get("total")) or None, "tokens")


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
