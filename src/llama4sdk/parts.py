"""The parts of a message's content: text and images, from objects or from the familiar chat dicts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from llama4sdk.checks import shown
from llama4sdk.errors import InvalidRequest
from llama4sdk.image_limits import ImageLimits


class Value(BaseModel):
    """A frozen value whose refusals are `InvalidRequest`, with the place but never the content."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    def __init__(self, /, **data: object) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _refusal(type(self).__name__, error) from None


_SHOWN = 80  # characters of a name or a reason in a refusal


def _refusal(what: str, error: ValidationError) -> InvalidRequest:
    problems = "; ".join(
        f"{'.'.join(str(step)[:_SHOWN] for step in problem['loc']) or 'value'}: {problem['msg'][:_SHOWN]}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)[:5]
    )
    return InvalidRequest(f"Not a valid {what}: {problems}.")


def checked_text(text: str) -> str:
    """Return the text if UTF-8 can hold it, else raise `InvalidRequest`."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"Text holds a lone surrogate at character {error.start}, which no UTF-8 text may; "
            "decode the source with errors='replace' first."
        ) from None
    return text


_SafeStr: TypeAlias = Annotated[
    str, BeforeValidator(lambda value: checked_text(value) if isinstance(value, str) else value)
]


class Text(Value):
    """A stretch of text inside a message.

    Args:
        text: Any text. What looks like one of the model's special tokens stays ordinary text.
    """

    type: Literal["text"] = "text"
    text: _SafeStr

    def __init__(self, /, text: str, **data: object) -> None:
        super().__init__(text=text, **data)


class Image(Value):
    """An image inside a message; read only when a backend or a renderer needs its pixels.

    Args:
        source: A path, the bytes of an image file, a PIL image, a `data:` URL, or an http(s) URL.
        fetch: Whether this process may fetch an http(s) URL; without it, such a URL is passed on to
            servers that fetch for themselves and refused with `UrlBlocked` elsewhere.
        orient: Whether the EXIF orientation is applied, so that the model sees what a person sees.
            Meta's reference does not apply it: pass False for its behaviour.
        image_limits: Bounds on this image's bytes and pixels; None for those of the backend.
    """

    type: Literal["image"] = "image"
    source: Any = Field(repr=False)
    fetch: bool = False
    orient: bool = True
    image_limits: ImageLimits | None = Field(default=None, repr=False)

    def __init__(
        self,
        /,
        source: str | bytes | PathLike[str] | object,
        *,
        fetch: bool = False,
        orient: bool = True,
        image_limits: ImageLimits | None = None,
        **data: object,
    ) -> None:
        if isinstance(source, bytearray | memoryview):
            source = bytes(source)
        if not (isinstance(source, str | bytes | PathLike) or hasattr(source, "getbands")):
            raise InvalidRequest(
                "An image comes from a path, bytes, a PIL image, a data: URL or an http(s) URL, "
                f"not {type(source).__name__}{_image_hint(source)}."
            )
        if isinstance(source, str | bytes) and not source.strip():
            raise InvalidRequest("An image's source is empty; give a path, bytes, a URL or a PIL image.")
        if isinstance(source, str):
            checked_text(source)
        super().__init__(source=source, fetch=fetch, orient=orient, image_limits=image_limits, **data)

    @property
    def url(self) -> str | None:
        """The http(s) URL that this image names, if it names one."""
        if isinstance(self.source, str) and self.source[:64].lstrip()[:8].lower().startswith(("http://", "https://")):
            return self.source.strip()
        return None


def _image_hint(source: object) -> str:
    if hasattr(source, "read"):
        return "; pass the bytes of the file, file.read()"
    return "; make a PIL image of it, with PIL.Image.fromarray(…)" if hasattr(source, "shape") else ""


Part: TypeAlias = Text | Image
Content: TypeAlias = str | tuple[Part, ...]


def part_of(value: object) -> Part:
    """Return the part that a string, a part or a familiar dict stands for.

    Dicts are `{"type": "text", "text": …}`, `{"type": "image", "image" | "source" | "path" | "url" |
    "data": …}` and `{"type": "image_url", "image_url": {"url": …}}` (or a plain string there).

    Raises:
        InvalidRequest: For anything else.
    """
    if isinstance(value, Text | Image):
        return value
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, Mapping):
        return _part_of_dict(cast("Mapping[str, Any]", value))
    if _is_image_like(value):
        return Image(value)
    raise InvalidRequest(
        f"A part of a message is a string, Text, Image, a path, a PIL image or a dict with a type, "
        f"not {type(value).__name__}."
    )


def _is_image_like(value: object) -> bool:
    """Whether a value is a path or a PIL image; PIL is not imported for the question."""
    return isinstance(value, os.PathLike) or any(
        (kind.__module__, kind.__qualname__) == ("PIL.Image", "Image") for kind in type(value).__mro__
    )


_IMAGE_KEYS = ("image", "source", "path", "url", "data")
_READING_KEYS = ("fetch", "orient", "image_limits")


def _part_of_dict(value: Mapping[str, Any]) -> Part:
    kind = value.get("type")
    if kind in ("text", "input_text"):
        text = value.get("text")
        if not isinstance(text, str):
            raise InvalidRequest('A text part looks like {"type": "text", "text": "…"}.')
        return Text(text)
    if kind == "image_url":
        url = value.get("image_url")
        source = cast("Mapping[str, object]", url).get("url") if isinstance(url, Mapping) else url
        if not isinstance(source, str):
            raise InvalidRequest('An image_url part looks like {"type": "image_url", "image_url": {"url": "…"}}.')
        if not source[:64].lstrip()[:8].lower().startswith(("http://", "https://", "data:")):
            raise InvalidRequest(
                'An image_url holds a data: or http(s) URL; for a file use {"type": "image", "path": "…"}.'
            )
        return Image(source)
    if kind == "image":
        named = [key for key in _IMAGE_KEYS if value.get(key) is not None]
        unknown = set(value) - {*_IMAGE_KEYS, *_READING_KEYS, "type"}
        if len(named) != 1 or unknown:
            raise InvalidRequest(
                f'An image part looks like {{"type": "image", "image": …}} with one of {", ".join(_IMAGE_KEYS)}'
                + (f", and knows no {', '.join(sorted(unknown))}." if unknown else ".")
            )
        return Image(value[named[0]], **{key: value[key] for key in _READING_KEYS if key in value})
    raise InvalidRequest(f"A dict part has the type text, image or image_url, not {shown(kind)}.")


def content_of(value: object) -> Content:
    """Return the content that a string, a part or a list of parts stands for.

    Raises:
        InvalidRequest: For anything else.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return checked_text(value)
    if isinstance(value, Text | Image | Mapping) or _is_image_like(value):
        return (part_of(cast("object", value)),)
    return tuple(part_of(part) for part in members(value, "A message's content is a string or a list of parts"))


def members(value: object, expected: str) -> tuple[object, ...]:
    """Return the members of an iterable; anything else, text and bytes included, is refused as not what is expected."""
    try:
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray):
            return tuple(cast("Iterable[object]", value))
    except TypeError:  # an array without an axis
        pass
    raise InvalidRequest(f"{expected}, not {type(value).__name__}.")


# What a caller may write where a message takes content.
ContentLike: TypeAlias = str | Text | Image | Mapping[str, Any] | Sequence["str | Text | Image | Mapping[str, Any]"]
