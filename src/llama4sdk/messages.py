"""What goes in: messages and their parts, from objects or from the familiar chat dicts.

A message's content is a string, or a list of strings, `Text`, `Image` and dict parts:

    UserMessage("Hello")
    UserMessage([Image("cat.png"), "What is in this picture?"])
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}]}

Values are frozen, and refuse nonsense with `InvalidRequest` where they are made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Annotated, Any, Literal, Self, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from llama4sdk.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


class _Value(BaseModel):
    """A frozen value whose refusals are `InvalidRequest`, with the place but never the content."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    def __init__(self, **data: object) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _refusal(type(self).__name__, error) from None


def _refusal(what: str, error: ValidationError) -> InvalidRequest:
    problems = "; ".join(
        f"{'.'.join(str(step) for step in problem['loc']) or 'value'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)[:5]
    )
    return InvalidRequest(f"Not a valid {what}: {problems}.")


def _checked_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"Text holds a lone surrogate at character {error.start}, which no UTF-8 text may; "
            "decode the source with errors='replace' first."
        ) from None
    return text


_SafeStr: TypeAlias = Annotated[
    str, BeforeValidator(lambda value: _checked_text(value) if isinstance(value, str) else value)
]


class Text(_Value):
    """A stretch of text inside a message.

    Args:
        text: Any text. What looks like one of the model's special tokens stays ordinary text.
    """

    type: Literal["text"] = "text"
    text: _SafeStr

    def __init__(self, text: str, **data: object) -> None:
        super().__init__(text=text, **data)


class Image(_Value):
    """A picture inside a message; read only when a backend or a renderer needs its pixels.

    Args:
        source: A path, the bytes of an image file, a PIL image, a `data:` URL, or an http(s) URL.
        fetch: Whether this process may fetch an http(s) URL; without it, such a URL is passed on to
            servers that fetch for themselves and refused with `UrlBlocked` elsewhere.
        orient: Whether the EXIF orientation is applied, so that the model sees what a person sees.
            Meta's reference does not apply it: pass False for its behaviour.
    """

    type: Literal["image"] = "image"
    source: Any = Field(repr=False)
    fetch: bool = False
    orient: bool = True

    def __init__(
        self,
        source: str | bytes | PathLike[str] | object,
        *,
        fetch: bool = False,
        orient: bool = True,
        **data: object,
    ) -> None:
        if isinstance(source, bytearray | memoryview):
            source = bytes(source)
        if not (isinstance(source, str | bytes | PathLike) or hasattr(source, "getbands")):
            raise InvalidRequest(
                "An image comes from a path, bytes, a PIL image, a data: URL or an http(s) URL, "
                f"not {type(source).__name__}."
            )
        if isinstance(source, str):
            _checked_text(source)
        super().__init__(source=source, fetch=fetch, orient=orient, **data)

    @property
    def url(self) -> str | None:
        """The http(s) URL that this image names, if it names one."""
        if isinstance(self.source, str) and self.source[:8].lower().startswith(("http://", "https://")):
            return self.source
        return None


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
    raise InvalidRequest(
        f"A part of a message is a string, Text, Image or a dict with a type, not {type(value).__name__}."
    )


_IMAGE_KEYS = ("image", "source", "path", "url", "data")


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
        if not source[:8].lower().startswith(("http://", "https://", "data:")):
            raise InvalidRequest(
                'An image_url holds a data: or http(s) URL; for a file use {"type": "image", "path": "…"}.'
            )
        return Image(source)
    if kind == "image":
        named = [key for key in _IMAGE_KEYS if value.get(key) is not None]
        unknown = set(value) - {*_IMAGE_KEYS, "type", "fetch", "orient"}
        if len(named) != 1 or unknown:
            raise InvalidRequest(
                f'An image part looks like {{"type": "image", "image": …}} with one of {", ".join(_IMAGE_KEYS)}'
                + (f", and knows no {', '.join(sorted(unknown))}." if unknown else ".")
            )
        return Image(value[named[0]], **{key: value[key] for key in ("fetch", "orient") if key in value})
    raise InvalidRequest(f"A dict part has the type text, image or image_url, not {kind!r}.")


def _content_of(value: object) -> Content:
    if value is None:
        return ""
    if isinstance(value, str):
        return _checked_text(value)
    if isinstance(value, Text | Image | Mapping):
        return (part_of(cast("object", value)),)
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        return tuple(part_of(part) for part in cast("Iterable[object]", value))
    raise InvalidRequest(f"A message's content is a string or a list of parts, not {type(value).__name__}.")


_AnyContent: TypeAlias = Annotated[Content, BeforeValidator(_content_of)]

# What a caller may write where a message takes content.
ContentLike: TypeAlias = str | Text | Image | Mapping[str, Any] | Sequence["str | Text | Image | Mapping[str, Any]"]


class ToolCall(_Value):
    """A call of one of the declared tools, as the model asked for it.

    Args:
        name: The tool's name.
        arguments: Its arguments by name; JSON text of an object is accepted too.
        id: Ties a tool's result to this call; unique within a conversation when there is one.
    """

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    id: str | None = None

    def __init__(self, name: str, arguments: Mapping[str, Any] | str | None = None, id: str | None = None) -> None:
        super().__init__(name=tool_name(name), arguments=_arguments(arguments), id=id)

    @classmethod
    def of(cls, value: object) -> Self:
        """Return the call that an object or a familiar dict stands for.

        Raises:
            InvalidRequest: When it is neither form, or its arguments are no JSON object.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"A tool call is a ToolCall or a dict, not {type(value).__name__}.")
        fields = cast("Mapping[str, Any]", value)
        inner = fields.get("function", fields)
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise InvalidRequest(
                'A tool call looks like {"id": "…", "type": "function", "function": {"name": "…", "arguments": "{…}"}}.'
            )
        call = cast("Mapping[str, Any]", inner)
        arguments = call.get("arguments", call.get("parameters"))
        return cls(call["name"], arguments, fields.get("id"))


def tool_name(name: str) -> str:
    """Return `name` if a tool may be called so, else raise `InvalidRequest`."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "A tool's name has 1 to 64 letters, digits, '_', '-' or '.', and starts with a letter or '_'; "
            f"got {name[:80]!r}."
        )
    return name


def _arguments(value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InvalidRequest("A tool call's arguments are a dict or the JSON text of an object.") from None
    if not isinstance(value, Mapping):
        raise InvalidRequest("A tool call's arguments are a dict or the JSON text of an object.")
    return dict(value)


def _calls_of(value: object) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidRequest("tool_calls is a list of tool calls.")
    return tuple(ToolCall.of(call) for call in cast("Iterable[object]", value))


class _Message(_Value):
    content: _AnyContent = ""

    def __init__(self, content: object, **data: object) -> None:
        super().__init__(content=content, **data)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts; a string is one `Text`, an empty one none."""
        if isinstance(self.content, str):
            return (Text(self.content),) if self.content else ()
        return self.content

    @property
    def text(self) -> str:
        """The text of all parts, joined; pictures are left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures, in order."""
        return tuple(part for part in self.parts if isinstance(part, Image))


class SystemMessage(_Message):
    """Instructions that stand above the conversation; text only.

    Args:
        content: The instructions.
    """

    role: Literal["system"] = "system"

    def __init__(self, content: ContentLike, **data: object) -> None:
        super().__init__(content, **data)
        if self.images:
            raise InvalidRequest("A system message holds text only; put pictures into a user message.")


class UserMessage(_Message):
    """What the person says and shows.

    Args:
        content: Text, pictures, or both in the order in which the model shall see them.
    """

    role: Literal["user"] = "user"

    def __init__(self, content: ContentLike, **data: object) -> None:
        super().__init__(content, **data)


class AssistantMessage(_Message):
    """What the model said earlier, or the tools that it called.

    Args:
        content: Its text.
        tool_calls: The calls it asked for, as `ToolCall` or in the familiar dict form.
    """

    role: Literal["assistant"] = "assistant"
    tool_calls: Annotated[tuple[ToolCall, ...], BeforeValidator(_calls_of)] = ()

    def __init__(
        self,
        content: ContentLike | None = "",
        *,
        tool_calls: Iterable[ToolCall | Mapping[str, Any]] | None = (),
        **data: object,
    ) -> None:
        super().__init__(content, tool_calls=tool_calls, **data)
        if self.images:
            raise InvalidRequest("An assistant message holds text and tool calls only.")


class ToolMessage(_Message):
    """The result of a tool call.

    Args:
        content: What the tool returned: text, or pictures where the model takes them.
        tool_call_id: The id of the call that this answers, when it had one.
        name: The tool's name, when known.
    """

    role: Literal["tool"] = "tool"
    tool_call_id: str | None = None
    name: Annotated[str | None, BeforeValidator(lambda name: None if name is None else tool_name(str(name)))] = None

    def __init__(
        self,
        content: ContentLike,
        *,
        tool_call_id: str | None = None,
        name: str | None = None,
        **data: object,
    ) -> None:
        super().__init__(content, tool_call_id=tool_call_id, name=name, **data)


Message: TypeAlias = SystemMessage | UserMessage | AssistantMessage | ToolMessage
MessageLike: TypeAlias = Message | Mapping[str, Any]
Prompt: TypeAlias = str | MessageLike | Sequence[MessageLike]

_ROLES: Mapping[str, type[Message]] = {
    "system": SystemMessage,
    "user": UserMessage,
    "assistant": AssistantMessage,
    "tool": ToolMessage,
    "ipython": ToolMessage,
}
# Keys that chat servers add to messages and that say nothing to the model.
_IGNORED_KEYS = frozenset({"refusal", "annotations", "audio", "function_call", "reasoning", "reasoning_content"})


def message_of(value: object) -> Message:
    """Return the message that an object or a familiar chat dict stands for.

    Raises:
        InvalidRequest: For an unknown role or a dict that does not fit its role.
    """
    if isinstance(value, SystemMessage | UserMessage | AssistantMessage | ToolMessage):
        return value
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"A message is a message object or a dict with a role, not {type(value).__name__}.")
    fields = dict(cast("Mapping[str, Any]", value))
    role = fields.pop("role", None)
    kind = _ROLES.get(role) if isinstance(role, str) else None
    if kind is None:
        raise InvalidRequest(f"A message's role is one of system, user, assistant, tool; got {str(role)[:80]!r}.")
    fields = {key: field for key, field in fields.items() if not (field is None or key in _IGNORED_KEYS)}
    return kind(fields.pop("content", ""), **fields)


def conversation(prompt: Prompt) -> tuple[Message, ...]:
    """Return the messages that a prompt stands for: a string is one user message.

    Raises:
        InvalidRequest: For an empty prompt, or one of another kind.
    """
    if isinstance(prompt, str):
        return (UserMessage(prompt),)
    if isinstance(prompt, Mapping | _Message):
        return (message_of(prompt),)
    if not isinstance(prompt, Iterable) or isinstance(prompt, bytes):
        raise InvalidRequest(f"A prompt is a string, a message or a sequence of messages, not {type(prompt).__name__}.")
    messages = tuple(message_of(message) for message in prompt)
    if not messages:
        raise InvalidRequest("The conversation is empty; give at least one user message.")
    return messages
