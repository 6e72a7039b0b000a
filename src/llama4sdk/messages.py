"""Messages and their parts, from objects or from the familiar chat dicts.

A message's content is a string, or a list of strings, `Text`, `Image` and dict parts:

    UserMessage("Hello")
    UserMessage([Image("cat.png"), "What is in this picture?"])
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}]}

Values are frozen, and refuse nonsense with `InvalidRequest` where they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BeforeValidator

from llama4sdk.checks import shown
from llama4sdk.errors import InvalidRequest
from llama4sdk.parts import Content, ContentLike, Image, Part, Text, Value, content_of, members, part_of
from llama4sdk.tool_call import ToolCall, calls_of, tool_name

__all__ = [
    "AssistantMessage",
    "Content",
    "ContentLike",
    "Image",
    "Message",
    "MessageLike",
    "Part",
    "Prompt",
    "SystemMessage",
    "Text",
    "ToolCall",
    "ToolMessage",
    "UserMessage",
    "conversation",
    "message_of",
    "part_of",
    "tool_name",
]

_AnyContent: TypeAlias = Annotated[Content, BeforeValidator(content_of)]


class _Message(Value):
    content: _AnyContent = ""

    def __init__(self, /, content: object, **data: object) -> None:
        super().__init__(content=content, **data)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts; a string is one `Text`, an empty one none."""
        if isinstance(self.content, str):
            return (Text(self.content),) if self.content else ()
        return self.content

    @property
    def text(self) -> str:
        """The text of all parts, joined; images are left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """The images, in order."""
        return tuple(part for part in self.parts if isinstance(part, Image))


class SystemMessage(_Message):
    """Instructions that stand above the conversation; text only.

    Args:
        content: The instructions.
    """

    role: Literal["system"] = "system"

    def __init__(self, /, content: ContentLike, **data: object) -> None:
        _check_given(content)
        super().__init__(content, **data)
        if self.images:
            raise InvalidRequest("A system message holds text only; put images into a user message.")


class UserMessage(_Message):
    """A message of the user: text and images.

    Args:
        content: Text, images, or both in the order in which the model shall see them.
    """

    role: Literal["user"] = "user"

    def __init__(self, /, content: ContentLike, **data: object) -> None:
        _check_given(content)
        super().__init__(content, **data)


class AssistantMessage(_Message):
    """An earlier message of the model: text, or tool calls.

    Args:
        content: Its text.
        tool_calls: The calls it asked for, as `ToolCall` or in the familiar dict form.
    """

    role: Literal["assistant"] = "assistant"
    tool_calls: Annotated[tuple[ToolCall, ...], BeforeValidator(calls_of)] = ()

    def __init__(
        self,
        /,
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
        content: What the tool returned: text, or images where the model takes them.
        tool_call_id: The id of the call that this answers, when it had one.
        name: The tool's name, when known.
    """

    role: Literal["tool"] = "tool"
    tool_call_id: str | None = None
    name: Annotated[str | None, BeforeValidator(lambda name: None if name is None else tool_name(name))] = None

    def __init__(
        self,
        /,
        content: ContentLike,
        *,
        tool_call_id: str | None = None,
        name: str | None = None,
        **data: object,
    ) -> None:
        super().__init__(content, tool_call_id=tool_call_id, name=name, **data)


Message: TypeAlias = SystemMessage | UserMessage | AssistantMessage | ToolMessage
# The base too, since mypy takes a list of several kinds of messages for a list of their base.
MessageLike: TypeAlias = Message | _Message | Mapping[str, Any]
Prompt: TypeAlias = str | MessageLike | Sequence[MessageLike]

_ROLES: Mapping[str, type[Message]] = {
    "system": SystemMessage,
    "developer": SystemMessage,
    "user": UserMessage,
    "assistant": AssistantMessage,
    "tool": ToolMessage,
    "ipython": ToolMessage,
}
# Keys that chat servers add to messages and that say nothing to the model.
_IGNORED_KEYS = frozenset({"refusal", "annotations", "audio", "function_call", "reasoning", "reasoning_content"})


def _check_given(content: object) -> None:
    if content is None:
        raise InvalidRequest("A message of the system or the user needs content: a string or a list of parts.")


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
        raise InvalidRequest(f"A message's role is one of system, user, assistant, tool; got {shown(role)}.")
    if not all(isinstance(key, str) for key in fields):
        raise InvalidRequest("The keys of a message's dict are strings, such as 'role' and 'content'.")
    fields = {key: field for key, field in fields.items() if not (field is None or key in _IGNORED_KEYS)}
    return kind(fields.pop("content", None), **fields)


def conversation(prompt: Prompt) -> tuple[Message, ...]:
    """Return the messages that a prompt stands for: a string is one user message.

    Raises:
        InvalidRequest: For an empty prompt, or one of another kind.
    """
    if isinstance(prompt, str):
        return (UserMessage(prompt),)
    if isinstance(prompt, Mapping | _Message):
        return (message_of(prompt),)
    expected = "A prompt is a string, a message or a sequence of messages"
    messages = tuple(message_of(message) for message in members(prompt, expected))
    if not messages:
        raise InvalidRequest("The conversation is empty; give at least one user message.")
    return messages
