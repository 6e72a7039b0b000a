"""Items of a list of calls that cannot be read: where they end, and the call with a problem that stands for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llama4sdk.errors import InvalidRequest
from llama4sdk.tool_call import ToolCall

if TYPE_CHECKING:
    from collections.abc import Collection

_NAME = re.compile(
    r"""[\s,]*(?:([A-Za-z_][\w.-]*)\s*\(|\{.*?["']name["']\s*:\s*["']([A-Za-z_][\w.-]*)["'])""", re.DOTALL
)
_LONE = re.compile(
    r"""\s*(?:<\|python_start\|>\s*)?\[\s*([A-Za-z_][\w.-]*)\(.*\)\s*\]\s*(?:<\|python_end\|>|<\|eom\|>|<\|eot\|>|\s)*""",
    re.DOTALL,
)
_CLOSES = {")": "(", "]": "[", "}": "{"}
_SHOWN = 200  # characters of an unreadable call that the model is shown


class ItemEnd:
    """Finds the end of a list's item, character by character: a comma or bracket outside quotes and brackets."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._quote = ""
        self._escaped = False

    def ends_at(self, char: str) -> bool:
        """Take the next character; return whether it ends the item, to which it does not belong."""
        if self._escaped:
            self._escaped = False
        elif self._quote:
            self._escaped = char == "\\"
            self._quote = "" if char == self._quote else self._quote
        elif char in "\"'":
            self._quote = char
        elif char in "([{":
            self._open.append(char)
        elif char in _CLOSES and _CLOSES[char] in self._open:
            while self._open.pop() != _CLOSES[char]:
                pass  # brackets inside that were never closed
        elif char == "]" or (char == "," and not self._open):
            return True
        return False


def bad_call(item: str, tools: Collection[str], call_id: str | None) -> ToolCall | None:
    """Return the call with a problem for an item that could not be read; None for one that names no function.

    Args:
        item: Its text.
        tools: Names of the declared tools.
        call_id: The call's id.
    """
    match = _NAME.match(item)
    if match is None:
        return None
    name = match[1] or match[2]
    if name in tools:
        problem = f"This call could not be read, and was not run: {item.strip(', ')[:_SHOWN]}"
    else:
        problem = f"There is no tool named {name}; there are: {', '.join(tools)}."
    try:
        return ToolCall(name, None, call_id, problem)
    except InvalidRequest:
        return None


def undeclared_call(text: str, tools: Collection[str]) -> str | None:
    """Return the name of the function where a whole text is a list of calls that begins with an undeclared one."""
    match = _LONE.fullmatch(text)
    return match[1] if match is not None and match[1] not in tools else None
