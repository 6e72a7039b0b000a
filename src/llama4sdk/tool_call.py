"""A call of a tool, from an object or from the familiar chat dict, and what tools may be called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self, cast

from pydantic import Field

from llama4sdk.call_arguments import arguments_of
from llama4sdk.checks import shown
from llama4sdk.errors import InvalidRequest
from llama4sdk.parts import Value, members

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


class ToolCall(Value):
    """A call of one of the declared tools, as the model asked for it.

    Args:
        name: The tool's name.
        arguments: Its arguments by name; JSON text of an object is accepted too.
        id: Ties a tool's result to this call; unique within a conversation when there is one.
        problem: Why the call must not run, in words for the model: its arguments could not be read, and
            `arguments` is empty. None on every other call.
    """

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    id: str | None = None
    problem: str | None = None

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any] | str | None = None,
        id: str | None = None,
        problem: str | None = None,
    ) -> None:
        super().__init__(name=tool_name(name), arguments=_arguments(arguments), id=id, problem=problem)

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
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            "A tool's name has 1 to 64 letters, digits, '_', '-' or '.', and starts with a letter or '_'; "
            f"got {shown(name)}."
        )
    return name


def _arguments(value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, str):
        arguments, problem = arguments_of(value)
        if problem is not None:
            raise InvalidRequest("A tool call's arguments are a dict or the JSON text of an object.")
        return arguments
    if not isinstance(value, Mapping):
        raise InvalidRequest("A tool call's arguments are a dict or the JSON text of an object.")
    return dict(value)


def calls_of(value: object) -> tuple[ToolCall, ...]:
    """Return the calls that a list of objects or familiar dicts stands for; none for None.

    Raises:
        InvalidRequest: For anything else.
    """
    if value is None:
        return ()
    return tuple(ToolCall.of(call) for call in members(value, "tool_calls is a list of tool calls"))
