"""The messages of a chat request: what the wire allows, and nothing of this machine.

Files cannot be named here, and http(s) URLs only where the server may fetch them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import AssistantMessage, Image, Message, SystemMessage, Text, ToolMessage, UserMessage
from llama4sdk.server.failures import ApiError, refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama4sdk.messages import Part

# Fields of a message by role; the last ones are passed over.
_FIELDS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"content", "name"}),
    "developer": frozenset({"content", "name"}),
    "user": frozenset({"content", "name"}),
    "assistant": frozenset({"content", "name", "tool_calls"}),
    "tool": frozenset({"content", "name", "tool_call_id"}),
}
_PASSED_OVER = frozenset(
    {"role", "refusal", "annotations", "audio", "function_call", "reasoning", "reasoning_content", "id"}
)
_BETWEEN = "\n\n"  # system messages that stand side by side


def messages_of(given: Sequence[Mapping[str, Any]], *, remote_images: bool) -> tuple[Message, ...]:
    """Return the messages of a request; leading system messages are one.

    Args:
        given: As they came.
        remote_images: Whether http(s) URLs of images may be fetched.

    Raises:
        ApiError: A message is not what the wire allows.
    """
    messages: list[Message] = []
    for number, fields in enumerate(given):
        place = f"messages[{number}]"
        try:
            message = _message(fields, place, remote_images=remote_images)
        except InvalidRequest as error:
            raise refused(f"{place}: {error}", place, "invalid_value") from None
        before = messages[-1] if messages else None
        if isinstance(message, SystemMessage) and isinstance(before, SystemMessage):
            messages[-1] = SystemMessage(_BETWEEN.join(filter(None, (before.text, message.text))))
        else:
            messages.append(message)
    return tuple(messages)


def _message(fields: Mapping[str, Any], place: str, *, remote_images: bool) -> Message:
    role = fields.get("role")
    known = _FIELDS.get(role) if isinstance(role, str) else None
    if known is None:
        raise refused(
            f"Invalid value for '{place}.role': it is one of {', '.join(_FIELDS)}.", f"{place}.role", "invalid_value"
        )
    unknown = sorted(set(fields) - known - _PASSED_OVER)
    if unknown:
        field = f"{place}.{unknown[0][:64]}"
        raise refused(f"Unknown parameter: '{field}'.", field, "unknown_parameter")
    content = _content(fields.get("content"), f"{place}.content", remote_images=remote_images)
    match role:
        case "system" | "developer":
            return SystemMessage(content)
        case "user":
            return UserMessage(content)
        case "assistant":
            return AssistantMessage(content, tool_calls=fields.get("tool_calls"))
        case _:
            return ToolMessage(content, tool_call_id=fields.get("tool_call_id"), name=fields.get("name"))


def _content(content: object, place: str, *, remote_images: bool) -> str | list[Part]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refused(f"Invalid value for '{place}': it is a string or a list of parts.", place, "invalid_value")
    return [
        _part(part, f"{place}[{number}]", remote_images=remote_images)
        for number, part in enumerate(cast("list[object]", content))
    ]


def _part(part: object, place: str, *, remote_images: bool) -> Part:
    fields = cast("Mapping[str, object]", part) if isinstance(part, dict) else {}
    kind = fields.get("type")
    if kind in ("text", "input_text", "refusal"):
        text = fields.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str):
            return Text(text)
    if kind in ("image_url", "input_image"):
        return Image(_image_url(fields.get("image_url"), f"{place}.image_url", remote_images), fetch=remote_images)
    if kind in ("text", "input_text", "refusal"):
        raise refused(f"Invalid value for '{place}': a text part has a string 'text'.", place, "invalid_value")
    raise refused(
        f"Invalid value for '{place}.type': this server takes parts of the types text and image_url.",
        f"{place}.type",
        "invalid_value",
    )


def _image_url(given: object, place: str, remote_images: bool) -> str:
    url = cast("Mapping[str, object]", given).get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        raise refused(f'Invalid value for \'{place}\': it looks like {{"url": "data:image/png;base64,…"}}.', place)
    scheme = url[:8].lower()
    if scheme.startswith("data:"):
        return url
    if scheme.startswith(("http://", "https://")):
        if remote_images:
            return url
        raise _blocked("This server fetches no images from URLs; send the image itself as a data: URL.", place)
    raise _blocked("An image comes as a data: URL, such as data:image/png;base64,….", place)


def _blocked(message: str, place: str) -> ApiError:
    return refused(message, place, "invalid_image_url")
