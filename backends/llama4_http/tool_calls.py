"""Tool calls that a server parsed, put together from their deltas: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from llama4sdk.errors import InvalidRequest, ProtocolError
from llama4sdk.events import Event, ToolCallDelta, ToolCallReady, ToolCallStarted
from llama4sdk.messages import ToolCall


@dataclass(slots=True)
class _Call:
    index: int
    server_index: object
    id: str | None
    name: str
    arguments: list[str] = field(default_factory=list)


class ToolCallReader:
    """Joins the deltas of calls, whatever a server leaves out or repeats.

    A delta belongs to the call of its `index`, else of its `id`, else to the last one. A new id with a
    name begins a new call even under a known index, as some servers count wrongly.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, deltas: object) -> list[Event]:
        """Take the `tool_calls` of one delta in and return the events that they make.

        Raises:
            ProtocolError: When they have not the promised form.
        """
        if not isinstance(deltas, list):
            raise ProtocolError("The server sent tool_calls that are no list.")
        events: list[Event] = []
        for delta in deltas:
            if not isinstance(delta, Mapping):
                raise ProtocolError("The server sent a tool call that is no object.")
            self._add(delta, events)
        return events

    def ready(self, *, cut: bool) -> list[ToolCallReady]:
        """Return the finished calls.

        Args:
            cut: Whether the answer was cut off, so that the last call may be incomplete and is left out.

        Raises:
            ProtocolError: When a call's arguments are no JSON object.
        """
        made: list[ToolCallReady] = []
        for call in self._calls:
            try:
                made.append(ToolCallReady(call.index, ToolCall(call.name, "".join(call.arguments), call.id)))
            except InvalidRequest:
                if not cut:
                    raise ProtocolError(
                        f"The server sent tool call {call.index} with a bad name or arguments that are no JSON object."
                    ) from None
        return made

    def _add(self, delta: Mapping[str, Any], events: list[Event]) -> None:
        function = delta.get("function") or {}
        if not isinstance(function, Mapping):
            raise ProtocolError("The server sent a tool call whose function is no object.")
        name, call_id = _text(function, "name"), _text(delta, "id")
        call = self._call_of(delta.get("index"), call_id, name)
        if call is None:
            if not name:
                raise ProtocolError("The server sent a tool call without a name.")
            call = _Call(len(self._calls), delta.get("index"), call_id or None, name)
            self._calls.append(call)
            events.append(ToolCallStarted(call.index, name, call.id))
        arguments = _arguments(function.get("arguments"))
        if arguments:
            call.arguments.append(arguments)
            events.append(ToolCallDelta(call.index, arguments))

    def _call_of(self, index: object, call_id: str, name: str) -> _Call | None:
        if call_id:
            known = next((call for call in self._calls if call.id == call_id), None)
            if known is not None or name:
                return known
        if index is not None:
            return next((call for call in reversed(self._calls) if call.server_index == index), None)
        return None if name or not self._calls else self._calls[-1]


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if text is not None and not isinstance(text, str):
        raise ProtocolError(f"The server sent a tool call whose {key} is no string.")
    return text or ""


def _arguments(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, Mapping):  # some servers send the object itself
        return to_json(value).decode()
    raise ProtocolError("The server sent a tool call whose arguments are neither a string nor an object.")
