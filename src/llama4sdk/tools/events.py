"""Tool calls read out of the text events of a request."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from llama4sdk.events import Done, Event, TextDelta, ToolCallDelta, ToolCallReady, ToolCallStarted
from llama4sdk.tools.calls import CallReader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama4sdk.request import Request, ToolSpec


class CallEvents:
    """Turns text events that are calls into call events; other events pass.

    A server that parses only some of its calls may send events beside text: those keep coming as they are,
    numbered together with the calls that are read from the text.

    Args:
        tools: The tools that were declared.
        ids: Beginning of the calls' ids.
    """

    def __init__(self, tools: Iterable[ToolSpec], ids: str) -> None:
        self._reader = CallReader(tools, ids=ids)
        self._indices: dict[int, int] = {}  # of the backend's own calls, as they are shown

    def add(self, event: Event) -> list[Event]:
        """Return what becomes of one event: itself, others, or none for now."""
        match event:
            case TextDelta():
                return self._reader.feed(event.text, event.logprobs)
            case ToolCallStarted() | ToolCallDelta() | ToolCallReady():
                return [replace(event, index=self._index(event.index))]
            case Done():
                rest = self._reader.end()
                has_calls = self._reader.calls_read and event.finish_reason == "stop"
                return [*rest, replace(event, finish_reason="tool_calls") if has_calls else event]
            case _:
                return [event]

    def _index(self, index: int) -> int:
        if index not in self._indices:
            self._indices[index] = self._reader.call_beside()
        return self._indices[index]


def may_call(request: Request) -> bool:
    """Return whether calls are read out of the answer to a request."""
    # Whatever the backend's capabilities: servers that parse calls leave some of them in the text.
    return bool(request.tools) and request.tool_choice != "none"


def call_ids(request: Request) -> str:
    """Return the beginning of the ids of calls that are read from text: unique within a conversation."""
    return f"call_{hashlib.blake2s(request.request_id.encode(), digest_size=6).hexdigest()}_"
