"""Which call a tool's result answers, and under which id both are sent: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4sdk.messages import AssistantMessage, Message, ToolCall, ToolMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class _Asked:
    given: str | None
    sent: str
    name: str


class CallIds:
    """Pairs results with the calls before them, by id, then by the tool's name, then by their order.

    Calls without an id, and the second of two calls with one id, get a new id, unique in the conversation.

    Args:
        messages: The whole conversation.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self._used = set(_given(messages))
        self._made = 0
        self._open: list[_Asked] = []

    def asked(self, calls: Sequence[ToolCall]) -> list[str]:
        """Return the ids under which the calls of one message are sent."""
        self._open = []
        for call in calls:
            taken = call.id is None or any(call.id == other.sent for other in self._open)
            self._open.append(_Asked(call.id, self._new() if taken else str(call.id), call.name))
        return [asked.sent for asked in self._open]

    def answered(self, message: ToolMessage) -> str:
        """Return the id of the call that a result answers."""
        name, given = message.name, message.tool_call_id
        for fits in self._ways(given, name):
            for asked in self._open:
                if fits(asked):
                    self._open.remove(asked)
                    return asked.sent
        return given if given is not None else self._new()

    @staticmethod
    def _ways(given: str | None, name: str | None) -> list[Callable[[_Asked], bool]]:
        ways: list[Callable[[_Asked], bool]] = []
        if given is not None:
            ways.append(lambda asked: asked.given == given and asked.name == name)
            ways.append(lambda asked: asked.given == given)
        if name is not None:
            ways.append(lambda asked: asked.name == name and (given is None or asked.given is None))
        if given is None:
            ways.append(lambda asked: name is None)
            ways.append(lambda _: True)
        return ways

    def _new(self) -> str:
        while True:
            self._made += 1
            made = f"call_{self._made}"
            if made not in self._used:
                self._used.add(made)
                return made


def _given(messages: Sequence[Message]) -> list[str]:
    given: list[str] = []
    for message in messages:
        if isinstance(message, AssistantMessage):
            given += [call.id for call in message.tool_calls if call.id is not None]
        elif isinstance(message, ToolMessage) and message.tool_call_id is not None:
            given.append(message.tool_call_id)
    return given
