"""The value that a tool returned, as the content of a message: text, or text and images, of bounded size."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias, cast

from pydantic_core import PydanticSerializationError, to_jsonable_python

from llama4sdk.messages import Image, Text

Content: TypeAlias = "str | list[str | Text | Image]"

MAX_IMAGES: Final = 8
"""Images in one result."""


class UnusableResultError(Exception):
    """A result that cannot be told to the model; the message says why. It never leaves the loop."""


def content_of(value: object, limit: int) -> Content:
    """Return a result as a message's content.

    Text stays as it is; images stay images, alone or in a list with text; bytes are text when they are
    UTF-8; everything else is written as JSON (pydantic models, dataclasses, enums, dates, sets, … too).

    Args:
        value: What the tool returned.
        limit: Most characters of text; what is cut off is counted in a mark at the end.

    Raises:
        UnusableResultError: When it can be written in no such way.
    """
    if isinstance(value, Image):
        return [value]
    if _is_image(value):
        return [Image(value)]
    if isinstance(value, list | tuple) and any(_is_image(part) for part in cast("Sequence[object]", value)):
        return _mixed(cast("Sequence[object]", value), limit)
    return _text_of(value, limit)


def error_content(problem: str) -> str:
    """Return what the model is told of a call that failed."""
    return json.dumps({"error": _cut(problem, 2000)}, ensure_ascii=False)


def _is_image(value: object) -> bool:
    return isinstance(value, Image) or hasattr(value, "getbands")  # a PIL image


def _mixed(parts: Sequence[object], limit: int) -> Content:
    if sum(map(_is_image, parts)) > MAX_IMAGES:
        raise UnusableResultError(f"The tool returned more than {MAX_IMAGES} images.")
    content: list[str | Text | Image] = []
    for part in parts:
        shown = content_of(part, limit)
        if isinstance(shown, str):
            content.append(shown)
            limit = max(0, limit - len(shown))
        else:
            content += shown
    return content


def _text_of(value: object, limit: int) -> str:
    match value:
        case Text():
            return _cut(value.text, limit)
        case str():
            return _cut(value, limit)
        case bytes() | bytearray() | memoryview():
            return _decoded(value, limit)
        case _:
            return _cut(_json(value, limit), limit)


def _decoded(value: bytes | bytearray | memoryview, limit: int) -> str:
    head = bytes(value[: 4 * limit + 4])  # no character takes more than four bytes
    whole = len(head) == len(value)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return f"[{len(value):,} bytes that are not text]"
    return _cut(text, limit) if whole else f"{text[:limit]}… [cut: {limit:,} characters of {len(value):,} bytes shown]"


def _json(value: object, limit: int) -> str:
    if isinstance(value, Iterator):  # which may never end
        value = list(islice(cast("Iterator[object]", value), limit))
    try:
        plain = to_jsonable_python(value, inf_nan_mode="constants", bytes_mode="base64", fallback=_listed)
        return json.dumps(plain, ensure_ascii=False)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        raise UnusableResultError(
            f"The tool returned a {type(value).__name__} that cannot be written as JSON."
        ) from None


def _listed(value: object) -> object:
    if isinstance(value, Collection):
        return list(cast("Collection[object]", value))
    raise TypeError(type(value).__name__)


def _cut(text: str, limit: int) -> str:
    shown = text if len(text) <= limit else f"{text[:limit]}… [cut: {limit:,} of {len(text):,} characters shown]"
    return shown.encode("utf-8", "replace").decode("utf-8")  # lone surrogates, which no UTF-8 text may hold
