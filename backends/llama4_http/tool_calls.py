"""Tool calls that a server parsed, put together from their deltas: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import to_json

from llama4_http.surrogates import SurrogateJoiner
from llama4sdk.call_arguments import arguments_of, is_whole
from llama4sdk.errors import InvalidRequest, ProtocolError
from llama4sdk.events import Event, ToolCallDelta, ToolCallReady, ToolCallStarted
from llama4sdk.messages import ToolCall, tool_name
from llama4sdk.output.fitting import fit
from llama4sdk.output.json_schema import schema_of
from llama4sdk.surrogates import mended

if TYPE_CHECKING:
    from llama4sdk.request import ToolSpec

_ARGUMENTS = ("arguments", "parameters", "input")
_AROUND_NAME = re.compile(r"^functions\.|:\d+$")  # a namespace and a number that some templates put around a name


@dataclass(slots=True)
class _Call:
    index: int
    server_index: object
    given_id: str = ""
    id: str | None = None
    name: str = ""
    started: bool = False
    unsent: list[str] = field(default_factory=list[str])  # arguments that no event has shown
    arguments: list[str] = field(default_factory=list[str])
    last: str = ""  # the arguments of the last delta that had any
    repeats: bool = True  # whether each delta of arguments began with all of the one before
    joiner: SurrogateJoiner = field(default_factory=SurrogateJoiner)

    @property
    def text(self) -> str:
        self.arguments = ["".join(self.arguments)]
        return self.arguments[0]

    def take(self, arguments: str) -> None:
        """Take a piece of the arguments in."""
        if not (shown := self.joiner.feed(arguments)):
            return
        self.repeats = self.repeats and (shown.startswith(self.last) or self.last.strip() == "{}")
        self.last = shown
        self.arguments.append(shown)
        self.unsent.append(shown)

    def read(self) -> tuple[dict[str, Any], str | None]:
        """Return the arguments and the problem with them; where deltas repeat all before them, the last one counts."""
        arguments, problem = arguments_of(self.text)
        if problem is not None and self.repeats and is_whole(self.last):
            return arguments_of(self.last)
        return arguments, problem


class ToolCallReader:
    """Joins the deltas of calls, also where a server leaves index, id or name out, or repeats them.

    A delta belongs to the call of its index, else of its id, else to the last one. It begins another call when it
    carries a name and that call is complete already, or has another name, or another id. A new index always begins
    a new call: an id seen before never leads the arguments of one function to another. A call that is sent a second
    time, with the same index, id, name and arguments, is one call.

    Args:
        tools: The declared tools; their schemas mend nested values that arrive as JSON strings.
    """

    def __init__(self, tools: Iterable[ToolSpec] = ()) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._calls: list[_Call] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, deltas: object, *, whole: bool = False) -> list[Event]:
        """Take the `tool_calls` of one delta in and return the events that they make.

        Args:
            deltas: The list; a single call may stand for a list of one.
            whole: Whether it stands in a complete message, where each entry is a call of its own.

        Raises:
            ProtocolError: When they have not the promised form.
        """
        events: list[Event] = []
        for delta in _listed(deltas):
            if not isinstance(delta, Mapping):
                raise ProtocolError("The server sent a tool call that is no object.")
            self._add(delta, events, whole)
        return events

    def ready(self, *, cut: bool) -> list[Event]:
        """Return the events of the finished calls.

        A call whose arguments cannot be read carries the reason as its `problem`.

        Args:
            cut: Whether the answer was cut off: then calls without complete arguments are left out.

        Raises:
            ProtocolError: For arguments that belong to no function.
        """
        events: list[Event] = []
        for call in self._calls:
            call.arguments.append(call.joiner.close())
            text = call.text
            if not call.name:
                if not cut and text.strip() not in ("", "{}", "null"):
                    raise ProtocolError("The server sent a tool call without a name.")
                continue
            arguments, problem = call.read()
            if cut and (problem is not None or not text.strip()):
                continue
            self._show(call, events, at_end=True)
            events.append(ToolCallReady(call.index, self._made(call, arguments, problem)))
        return events

    def _made(self, call: _Call, arguments: dict[str, Any], problem: str | None) -> ToolCall:
        name, id_ = call.name, call.id
        if name not in self._tools and (bare := _AROUND_NAME.sub("", name)) in self._tools:
            name = bare
        try:
            tool_name(name)
        except InvalidRequest:
            name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"_{name}")[:64]
            problem = problem or "The call was not run, because no function can have such a name."
        tool = self._tools.get(name)
        if problem is not None or tool is None:
            return ToolCall(name, {} if problem is not None else arguments, id_, problem)
        fitted, misfits = fit(schema_of(tool), arguments)
        return ToolCall(name, arguments if misfits else fitted, id_)

    def _add(self, delta: Mapping[str, Any], events: list[Event], whole: bool) -> None:
        function = _function(delta)
        name, call_id, index = _text(function, "name").strip(), _id(delta), _index(delta.get("index"))
        arguments = _arguments(next((function[key] for key in _ARGUMENTS if function.get(key) is not None), None))
        call = None if whole else self._call_of(index, call_id, name, arguments)
        if call is None:
            if not whole and self._is_sent_again(index, call_id, name, arguments):
                return
            if self._calls:
                self._show(self._calls[-1], events, at_end=True)
            call = _Call(len(self._calls), index)
            self._calls.append(call)
        if call_id and not call.given_id:
            call.given_id, call.id = call_id, self._unused(call_id)
        if name:
            self._name(call, name)
        call.take(arguments)
        self._show(call, events)

    def _show(self, call: _Call, events: list[Event], *, at_end: bool = False) -> None:
        """Add the events of a call as far as its name is certain."""
        if not call.name:
            return
        if not call.started:
            longer = any(name != call.name and name.startswith(call.name) for name in self._tools)
            if not (at_end or call.unsent or (call.name in self._tools and not longer)):
                return
            call.started = True
            events.append(ToolCallStarted(call.index, call.name, call.id))
        events.extend(ToolCallDelta(call.index, text) for text in call.unsent)
        call.unsent.clear()

    def _name(self, call: _Call, name: str) -> None:
        if not call.name:
            call.name = name
        elif not call.started and not call.arguments and name != call.name:  # a name in pieces, or sent anew and longer
            cumulative = name.startswith(call.name) and name in self._tools
            call.name = name if cumulative else call.name + name

    def _unused(self, call_id: str) -> str:
        used = {call.id for call in self._calls}
        number, unused = 1, call_id
        while unused in used:
            number += 1
            unused = f"{call_id}_{number}"
        return unused

    def _call_of(self, index: object, call_id: str, name: str, arguments: str) -> _Call | None:
        """Return the call that a delta continues, or None when it begins another."""
        newest = self._calls[::-1]
        call: _Call | None
        if index is not None:
            call = next((one for one in newest if one.server_index == index), None)
            if call is None and call_id and not name:
                call = next((one for one in newest if one.given_id == call_id and one.server_index is None), None)
        elif call_id:
            call = next((one for one in newest if one.given_id == call_id), None)
        else:
            call = newest[0] if newest else None
        return None if call is None or self._is_another(call, call_id, name, arguments) else call

    def _is_sent_again(self, index: object, call_id: str, name: str, arguments: str) -> bool:
        given = (index, call_id, name, arguments.strip())
        return call_id != "" and any(
            given == (call.server_index, call.given_id, call.name, call.text.strip()) for call in self._calls
        )

    def _is_another(self, call: _Call, call_id: str, name: str, arguments: str) -> bool:
        new_id = bool(call_id and call.given_id and call_id != call.given_id)
        if not name:
            return new_id and is_whole(call.text)
        if not call.name:
            return new_id
        if call.arguments:
            if name != call.name:
                return True
            return (new_id or bool(arguments.strip())) and is_whole(call.text)
        if new_id:
            return True
        return name != call.name and {name, call.name} <= self._tools.keys() and call.name + name not in self._tools


def _listed(deltas: object) -> list[Any]:
    """Return the entries of `tool_calls`, which may be one call, or calls by their indexes; null ones left out."""
    if isinstance(deltas, Mapping):
        calls = cast("Mapping[str, object]", deltas)
        by_index = bool(calls) and all(isinstance(key, str) and key.isdecimal() for key in calls)
        deltas = list(calls.values()) if by_index else [calls]
    if not isinstance(deltas, list):
        raise ProtocolError("The server sent tool_calls that are no list.")
    return [delta for delta in cast("list[object]", deltas) if delta is not None]


def _function(delta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return name and arguments of a delta, which some servers put beside the id or call `custom`."""
    function = delta.get("function") or delta.get("custom") or (delta if "name" in delta else {})
    if not isinstance(function, Mapping):
        raise ProtocolError("The server sent a tool call whose function is no object.")
    return function


def _index(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 16 else value


def _id(delta: Mapping[str, Any]) -> str:
    value = delta.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return mended(value) if isinstance(value, str) else ""


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if text is not None and not isinstance(text, str):
        raise ProtocolError(f"The server sent a tool call whose {key} is no string.")
    return mended(text or "")


def _arguments(value: object) -> str:
    if value is None or value == [] or isinstance(value, str):  # an empty object is an empty list in PHP
        return value if isinstance(value, str) else ""
    if isinstance(value, Mapping):  # some servers send the object itself
        return to_json(value).decode()
    raise ProtocolError("The server sent a tool call whose arguments are neither a string nor an object.")
