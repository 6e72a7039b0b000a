"""How tools and typed answers are declared in the prompt, in this project's words.

Llama 4 was trained on functions given as a JSON list and answered with a Python list of calls,
`[get_weather(city="Paris", days=3)]` (Meta's prompt format page for Llama 4). The bundled nano model is
trained on exactly the wording below, so a change here needs a new training run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import Message, SystemMessage, ToolCall, UserMessage

if TYPE_CHECKING:
    from llama4sdk.request import OutputSpec, ToolChoice, ToolSpec

ToolsPlace: TypeAlias = Literal["system", "user"]
"""Where tools are declared: in the system message, or before the first user message's content."""

_INTRODUCTION = (
    "You can call the functions below. When a call helps, answer with nothing but a Python list of calls, "
    "like [name(argument=value)]. When none fits, answer in words."
)
_CHOICES: Mapping[str, str] = {"auto": "", "required": " You must call at least one function now."}
_OUTPUT = "Answer with nothing but JSON that fits this schema:"


def declare_tools(tools: Sequence[ToolSpec], choice: ToolChoice = "auto") -> str:
    """Return the text that tells the model of its tools; empty when it shall not know of any."""
    if not tools or choice == "none":
        return ""
    ask = _CHOICES.get(choice, f" You must call {choice} now.")
    listed = ",\n".join(_compact(_declaration(tool)) for tool in tools)
    return f"{_INTRODUCTION}{ask}\n[{listed}]"


def declare_output(output: OutputSpec) -> str:
    """Return the text that asks for an answer of a given form."""
    return f"{_OUTPUT}\n{_compact(output.schema)}"


def with_declarations(
    messages: Sequence[Message],
    *,
    tools: Sequence[ToolSpec] = (),
    choice: ToolChoice = "auto",
    output: OutputSpec | None = None,
    place: ToolsPlace = "system",
) -> tuple[Message, ...]:
    """Return the messages with tools and answer form declared in them.

    Args:
        messages: The conversation.
        tools: Tools to declare.
        choice: Whether and which of them must be called.
        output: The form of the answer, when one is asked for.
        place: `system` appends to the system message (or makes one), `user` puts the declarations
            before the first user message's content.
    """
    declared = [text for text in (declare_tools(tools, choice), declare_output(output) if output else "") if text]
    if not declared:
        return tuple(messages)
    text = "\n\n".join(declared)
    if place == "user":
        return _before_first_user(messages, text)
    if messages and isinstance(messages[0], SystemMessage):
        first = messages[0].text
        return (SystemMessage(f"{first}\n\n{text}" if first else text), *messages[1:])
    return (SystemMessage(text), *messages)


def tools_place(place: str) -> ToolsPlace:
    """Return the place of the declarations, or raise `InvalidRequest` for one that there is not."""
    if not isinstance(place, str) or place not in ("system", "user"):
        raise InvalidRequest(f"Tools are declared in the 'system' or the 'user' message; got tools_in={place!r}.")
    return place


def write_calls(calls: Sequence[ToolCall]) -> str:
    """Return calls as the model writes them: `[f(a=1), g(b="x")]`, values in Python's notation.

    Strings are written with double quotes, as JSON writes them, which Python reads the same way.
    """
    return f"[{', '.join(_call(call) for call in calls)}]"


def _call(call: ToolCall) -> str:
    return f"{call.name}({', '.join(f'{name}={_value(value)}' for name, value in call.arguments.items())})"


def _value(value: Any) -> str:
    match value:
        case None:
            return "None"
        case bool():
            return str(value)
        case Mapping():
            return "{" + ", ".join(f"{_value(str(key))}: {_value(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return repr(value)


def _declaration(tool: ToolSpec) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def _before_first_user(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    for index, message in enumerate(messages):
        if isinstance(message, UserMessage):
            return (*messages[:index], UserMessage([text + "\n\n", *message.parts]), *messages[index + 1 :])
    return tuple(messages)
