"""The items of a request: which of its messages are checked, and how replaced text gets back into them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama4sdk.guards.held import redacted
from llama4sdk.guards.protocol import Item
from llama4sdk.messages import AssistantMessage, SystemMessage, Text, ToolMessage, UserMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llama4sdk.messages import Message, ToolCall
    from llama4sdk.parts import Part
    from llama4sdk.request import Request
    from llama4sdk.verdict import Redaction, Stage


@dataclass(frozen=True, slots=True)
class Placed:
    """An item of a request.

    Args:
        place: Place of its message among the request's.
        message: What the item is of: a message; of the assistant's, its text or one call; None of a raw prompt.
        item: The item.
        earlier: Whether it stands before the last turn.
    """

    place: int
    message: Message | None
    item: Item
    earlier: bool = False


def prompt_items(
    request: Request, said: Sequence[Message], *, history: bool, system: bool, cleared: Callable[[Message], bool]
) -> Iterator[Placed]:
    """Yield the items of a request's messages, in order.

    The last turn is all that follows the last answer that another message follows; of an opening of a session, every
    message of the user's or a tool's.

    Args:
        request: The request.
        said: The messages before the request's, in a session.
        history: Whether messages before the last turn are inspected, and the assistant's.
        system: Whether system messages are.
        cleared: Tells of a message before the last turn whether it was cleared already.
    """
    last = _last_turn(request)
    for place in range(0 if history or system else last, len(request.messages)):
        for message, stage in _pieces(request.messages[place], history=history, system=system):
            if place < last and (cleared(message) or not (history or isinstance(message, SystemMessage))):
                continue
            before = (*said, *request.messages[:place])
            yield Placed(place, message, _item(stage, message, before, request.request_id), place < last)


def _pieces(message: Message, *, history: bool, system: bool) -> Iterator[tuple[Message, Stage]]:
    match message:
        case UserMessage():
            yield message, "input"
        case ToolMessage():
            yield message, "tool_result"
        case SystemMessage() if system:
            yield message, "input"
        case AssistantMessage() if history:
            if message.text:
                yield AssistantMessage(message.content) if message.tool_calls else message, "output"
            for call in message.tool_calls:
                yield AssistantMessage("", tool_calls=(call,)), "tool_call"
        case _:
            pass


def _item(stage: Stage, message: Message, before: Sequence[Message], request_id: str) -> Item:
    if isinstance(message, AssistantMessage) and message.tool_calls:
        return call_item(before, message.tool_calls[0], request_id)
    return Item(stage, message.text, message.images, (*before, message), request_id=request_id)


def raw_item(request: Request, text: str) -> Item:
    """Return the item of a prompt that is completed as it stands."""
    messages = (UserMessage(text),) if text else ()
    return Item("input", text, messages=messages, request_id=request.request_id)


def call_item(before: Sequence[Message], call: ToolCall, request_id: str) -> Item:
    """Return the item of a tool call: its name, its arguments as JSON, and the texts that JSON escapes."""
    text = f"{call.name} {json.dumps(call.arguments, ensure_ascii=False, default=str)}"
    escaped = [one for one in _texts(call.arguments) if json.dumps(one, ensure_ascii=False) != f'"{one}"']
    text = "\n".join([text, *escaped])
    messages = (*before, AssistantMessage("", tool_calls=(call,)))
    return Item("tool_call", text, messages=messages, call=call, request_id=request_id)


def unfinished_call_item(before: Sequence[Message], text: str, request_id: str) -> Item:
    """Return the item of a call that broke off."""
    return Item("tool_call", text, messages=tuple(before), request_id=request_id)


def answer_item(before: Sequence[Message], text: str, request_id: str, *, final: bool) -> Item:
    """Return the item of an answer, or of its beginning."""
    messages = (*before, AssistantMessage(text)) if text else tuple(before)
    return Item("output", text, messages=messages, final=final, request_id=request_id)


def with_redactions(request: Request, redactions: Mapping[int, Sequence[Redaction]]) -> Request:
    """Return a request whose messages have stretches replaced, by the place of the message."""
    messages = list(request.messages)
    for place, stretches in redactions.items():
        messages[place] = with_replaced(messages[place], stretches)
    return replace(request, messages=tuple(messages))


def with_replaced(message: Message, stretches: Sequence[Redaction]) -> Message:
    """Return a message with stretches of its text replaced."""
    if isinstance(message.content, str):
        return message.model_copy(update={"content": redacted(message.content, 0, stretches)})
    parts: list[Part] = []
    offset = 0
    for part in message.content:
        if isinstance(part, Text):
            parts.append(Text(redacted(part.text, offset, stretches)))
            offset += len(part.text)
        else:
            parts.append(part)
    return message.model_copy(update={"content": tuple(parts)})


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in a JSON value, names of fields included."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case dict() as fields:
                waiting += [*fields.values(), *fields]
            case list() | tuple() as members:
                waiting += members
            case _:
                pass


def _last_turn(request: Request) -> int:
    if request.part == "opening":
        return 0
    answers = [place for place, message in enumerate(request.messages[:-1]) if isinstance(message, AssistantMessage)]
    return answers[-1] + 1 if answers else 0
