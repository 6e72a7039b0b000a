"""The text of an answer's `content`, whichever form it comes in: pure."""

from __future__ import annotations

from typing import cast

from llama4sdk.errors import ProtocolError


def text_of(content: object) -> str:
    """Return the text of a content: a string, null or false for none, a typed part, or a list of those.

    Raises:
        ProtocolError: For anything else.
    """
    if isinstance(content, str):
        return content
    if content is None or content is False or content in ([], {}):
        return ""
    parts = cast("list[object]", content) if isinstance(content, list) else [content]
    return "".join(_text_of_part(part) for part in parts if part is not None)


def _text_of_part(part: object) -> str:
    """Return the text of one part; parts of other kinds, reasoning among them, hold none."""
    fields = cast("dict[str, object]", part) if isinstance(part, dict) else {}
    kind, text = fields.get("type", "text"), fields.get("text")
    if not fields or not isinstance(kind, str):
        raise ProtocolError("The server sent text that is no string.")
    return text if isinstance(text, str) and "reason" not in kind and "think" not in kind else ""
