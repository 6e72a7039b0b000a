"""The key of a prompt: equal for what would be asked in the same way, and telling nothing of it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import fields
from pathlib import Path
from typing import cast

from llama4sdk.errors import ImageError, InvalidRequest
from llama4sdk.messages import AssistantMessage, Image, Message, Part, Text, ToolCall, ToolMessage
from llama4sdk.request import OutputSpec, Sampling

_RULES = "llama4sdk.bulk.key/1"


def prompt_key(messages: tuple[Message, ...], sampling: Sampling, output: OutputSpec | None = None) -> str:
    """Return the SHA-256, in hex, of a conversation, its images' bytes, the sampling and the answer's form.

    An image counts by the bytes of its file, wherever they come from; one that a URL names, by the URL. Reads
    files, so call it in a worker thread.

    Raises:
        ImageError: When an image's file cannot be read.
        InvalidRequest: When the arguments of a tool call are no JSON.
    """
    asked: list[object] = [_RULES, [_message(message) for message in messages], _sampling(sampling)]
    if output is not None:
        asked.append([output.name, output.schema])
    try:
        # The order of keys is kept, for the model may see it; ASCII holds any text, lone surrogates too.
        text = json.dumps(asked, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest("The arguments of a tool call in a prompt must be JSON.") from None
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _message(message: Message) -> list[object]:
    parts: list[object] = [_part(part) for part in message.parts]
    match message:
        case AssistantMessage():
            return [message.role, parts, [_call(call) for call in message.tool_calls]]
        case ToolMessage():
            return [message.role, parts, message.tool_call_id, message.name]
        case _:
            return [message.role, parts]


def _call(call: ToolCall) -> list[object]:
    return [call.name, call.arguments, call.id]


def _part(part: Part) -> list[object]:
    match part:
        case Text():
            return ["text", part.text]
        case Image():
            return ["image", *_image(part), part.orient]


def _sampling(sampling: Sampling) -> dict[str, object]:
    # What has its default is left out, so that a field that is added one day changes no key.
    values = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    return {name: value for name, value in values.items() if value != getattr(Sampling(), name)}


def _image(image: Image) -> tuple[str, str]:
    source = cast("object", image.source)
    if isinstance(source, bytes):
        return "file", hashlib.sha256(source).hexdigest()
    if isinstance(source, str) and (image.url is not None or source[:64].lstrip()[:5].lower() == "data:"):
        return "url", hashlib.sha256(source.encode()).hexdigest()
    if isinstance(source, str | os.PathLike):
        return "file", _file_digest(Path(cast("str | os.PathLike[str]", source)))
    return "pixels", _pixel_digest(source)


def _file_digest(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("An image's path names no file.")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise ImageError("An image's file cannot be read; does it exist?") from None


def _pixel_digest(image: object) -> str:
    from PIL import Image as Pillow

    if not isinstance(image, Pillow.Image):
        raise ImageError(f"An image cannot be read from {type(image).__name__}.")
    try:
        # All that bears on what is seen: beside the pixels, their colours and the orientation.
        form = (image.mode, image.size, image.getpalette(), image.info.get("transparency"), image.getexif().get(0x0112))
        return hashlib.sha256(repr(form).encode() + image.tobytes()).hexdigest()
    except (OSError, SyntaxError, ValueError):
        raise ImageError("An image cannot be read: its data is damaged.") from None
