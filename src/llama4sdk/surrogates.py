"""Halves of surrogate pairs in text and JSON values, joined to whole characters or replaced: pure."""

from __future__ import annotations

import re
from typing import Any, Final

REPLACEMENT: Final = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")


def mended(text: str) -> str:
    """Return the text with whole pairs joined and every lone surrogate replaced by U+FFFD."""
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mended_value(value: Any) -> Any:
    """Return a JSON value with `mended` applied to every string in it, keys included."""
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, dict):
        return {mended(str(key)): mended_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mended_value(item) for item in value]
    return value
