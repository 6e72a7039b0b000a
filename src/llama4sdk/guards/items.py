"""The items of a request: which of its messages are checked, and how replaced text gets back into them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from llama4sdk.guards.held import redacted
from llama4sdk.guards.protocol import Item
from llama4sdk.messages import AssistantMessage, Text, ToolMessage, UserMessage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llama4sdk.messages import Message, ToolCall
    from llama4sdk.parts import Part
    from llama4sdk.request import Request
    from llama4sdk.verdict import Redaction, Stage


def prompt_items(request: Request) -> dict[int, Item]:
    """Return the items of a request's last turn, by the place of their message.

    The last turn is all that follows the last answer that another message follows; of an opening of a session, every
    message of the user's or a tool's.
    """
    items: dict[int, Item] = {}
    for place in range(_last_turn(request), len(request.messages)):
        message = request.messages[place]
        stage: Stage
        match message:
            case UserMessage():
                stage = "input"
            case ToolMessage():
                stage = "tool_result"
            case _:
                continue
        conversation = request.messages[: place + 1]
        items[place] = Item(stage, message.text, message.images, conversation, request_id=request.request_id)
    return items


def raw_item(request: Request, text: str) -> Item:
    """Return the item of a prompt that is completed as it stands."""
    messages = (UserMessage(text),) if text else ()
    return Item("input", text, messages=messages, request_id=request.request_id)


def call_item(request: Request, call: ToolCall) -> Item:
    """Return the item of a tool call: its name, its arguments as JSON, and the texts that JSON escapes."""
    text = f"{call.name} {json.dumps(call.arguments, ensure_ascii=False, default=str)}"
    escaped = [one for one in _texts(call.arguments) if json.dumps(one, ensure_ascii=False) != f'"{one}"']
    text = "\n".join([text, *escaped])
    messages = (*request.messages, AssistantMessage("", tool_calls=(call,)))
    return Item("tool_call", text, messages=messages, call=call, request_id=request.request_id)


def unfinished_call_item(request: Request, text: str) -> Item:
    """Return the item of a call that broke off."""
    return Item("tool_call", text, messages=request.messages, request_id=request.request_id)


def answer_item(request: Request, text: str, *, final: bool) -> Item:
    """Return the item of an answer, or of its beginning."""
    messages = (*request.messages, AssistantMessage(text)) if text else request.messages
    return Item("output", text, messages=messages, final=final, request_id=request.request_id)


def with_redactions(request: Request, redactions: Mapping[int, Sequence[Redaction]]) -> Request:
    """Return a request whose messages have stretches replaced, by the place of the message."""
    messages = list(request.messages)
    for place, stretches in redactions.items():
        messages[place] = _replaced(messages[place], stretches)
    return replace(request, messages=tuple(messages))


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


def _replaced(message: Message, stretches: Sequence[Redaction]) -> Message:
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
