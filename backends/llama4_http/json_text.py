"""The JSON of events and bodies, read strictly where possible: pure.

pydantic's reader takes nearly every event. Two kinds that real servers send are read a second time, with the
standard library: strings with lone surrogates, and `NaN` or `Infinity` among log-probabilities.
"""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic_core import from_json

from llama4sdk.errors import ProtocolError


class CutJsonError(ProtocolError):
    """A JSON text that ends before its value does."""


def parsed(data: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises:
        CutJsonError: When the text ends before its value does.
        ProtocolError: For any other text that is no JSON, and for numbers that are not finite, unless they
            stand in `logprobs`.
    """
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        kind = CutJsonError if "EOF while parsing" in str(error) else ProtocolError
    if kind is ProtocolError and (b"\\u" in data or b"N" in data or b"Infinity" in data):
        value = _leniently(data)
        if value is not None:
            return value
    raise kind(f"The server sent {len(data)} bytes that are not valid JSON in UTF-8.")


def _leniently(data: bytes) -> Any:
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    return value if is_finite(value) else None


def is_finite(value: Any, *, depth: int = 0) -> bool:
    """Return whether a JSON value holds finite numbers only, `logprobs` aside, in at most 64 levels."""
    if depth > 64:
        return False
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(key == "logprobs" or is_finite(item, depth=depth + 1) for key, item in value.items())
        case list():
            return all(is_finite(item, depth=depth + 1) for item in value)
        case _:
            return True
