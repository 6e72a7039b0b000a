"""Finish reasons as servers write them → ours: pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llama4sdk.errors import ProtocolError, ServerFault

if TYPE_CHECKING:
    from llama4sdk.events import FinishReason

_NONE = frozenset({"", "null", "none"})  # as some servers write it in events before the last
_STOP = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn", "stop_str", "completed"})
_CALLS = frozenset({"tool_calls", "function_call", "tool_use"})
# Reasons that tell of an answer that is not complete, for no fault of the model.
_GIVEN_UP = re.compile(
    r"abort|error|fail|cancel|time_?(d_)?out|time_limit|insufficient_system|interrupt|preempt|disconnect|shutdown|"
    r"unavailable|overloaded|^load$|rate_limit"
)
_LENGTH = re.compile(r"length|^(max|out_of|too_many).*tokens?|token_limit|context_window|^incomplete$|^max_output")
_FILTERED = re.compile(
    r"filter|safety|guardrail|moderation|blocked|blocklist|prohibited|recitation|sensitive|^spii$|^refus"
)


def given_reason(value: object) -> object:
    """Return a finish reason as it was sent, or None where the field is there without one.

    An object's `type` counts, as SGLang's own form has it.
    """
    if isinstance(value, dict):
        value = value.get("type")
    return None if not value or (isinstance(value, str) and value.strip().lower() in _NONE) else value


def read_reason(value: object) -> tuple[FinishReason, bool]:
    """Return the finish reason of a complete answer, and whether its word is known.

    A word that is not known is the end of an answer too; only that may be one that was cut off.

    Raises:
        ServerFault: When the word tells that the server gave the answer up.
        ProtocolError: When it is no word.
    """
    if not isinstance(value, str):
        raise ProtocolError("The server sent a finish reason that is no string.")
    word = value.strip().lower()
    if word in _STOP:
        return "stop", True
    if word in _CALLS:
        return "tool_calls", True
    if _GIVEN_UP.search(word):
        raise ServerFault("The server gave the answer up before its end.")
    if _LENGTH.search(word):
        return "length", True
    return ("content_filter", True) if _FILTERED.search(word) else ("stop", False)
