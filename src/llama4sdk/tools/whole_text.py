"""The calls of a whole text at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4sdk.events import TextDelta, ToolCallReady
from llama4sdk.tools.calls import CallReader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama4sdk.request import ToolSpec
    from llama4sdk.tool_call import ToolCall


@dataclass(frozen=True, slots=True)
class CallsRead:
    """The calls of a text, and the rest of it.

    Args:
        calls: The calls, in order.
        text: What is left of the text.
    """

    calls: tuple[ToolCall, ...]
    text: str


def read_specs(text: str, tools: Iterable[ToolSpec]) -> CallsRead:
    """Return the calls of the declared tools in a whole text, and the rest of it. Raises for no text."""
    reader = CallReader(tools)
    events = [*reader.feed(text), *reader.end()]
    return CallsRead(
        tuple(event.call for event in events if isinstance(event, ToolCallReady)),
        "".join(event.text for event in events if isinstance(event, TextDelta)),
    )
