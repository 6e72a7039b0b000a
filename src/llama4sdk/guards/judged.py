"""A conversation in the form that Llama Guard judges: the user's and the agent's turns, alternating."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from llama4sdk.messages import AssistantMessage, Image, Message, SystemMessage, Text, UserMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.errors import LlamaError
    from llama4sdk.guards.protocol import Item
    from llama4sdk.parts import Part

_OVERLAP = 200  # characters that two pieces of a cut turn share
_SMALLEST = 4 * _OVERLAP
# The beginning of a special token's name, such as `<|eot|>`.
_SPECIAL: Final = re.compile(r"<\|(?=[A-Za-z0-9_]{1,64}\|>)")


@dataclass(frozen=True, slots=True)
class Turns:
    """Turns to be judged by their last.

    Args:
        before: The turns before the last, alternating.
        agent: Whether the last is the agent's.
        text: The last turn's text.
        images: Its images, which stand before the text.
        shortened: Whether the one turn before it was cut.
    """

    before: tuple[Message, ...]
    agent: bool
    text: str
    images: tuple[Image, ...] = ()
    shortened: bool = False

    @classmethod
    def of(cls, text: str) -> Turns:
        """Return a single turn of the user's."""
        return cls((), agent=False, text=text)

    @property
    def earlier(self) -> int:
        """How many whole turns stand before the last."""
        return len(self.before) - self.shortened

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns as messages, their content in parts, as the model's template reads it.

        Names of special tokens are broken up by a space: many servers read them out of text as tokens, and a turn could
        end itself and bring its own verdict.
        """
        last = [*self.images, Text(self.text)]
        return (*(_plain(turn) for turn in self.before), _turn(last, agent=self.agent))

    def smaller(self, error: LlamaError) -> list[Turns]:
        """Return what takes the place of turns that are too long: the later of them, then the last one in pieces.

        Raises:
            LlamaError: The error itself, where nothing can be left out or cut.
        """
        least = 1 if self.agent else 0  # an agent's turn answers the user
        if len(self.before) > least:
            kept = self.before[(len(self.before) - least + 1) // 2 :]
            while kept and not isinstance(kept[0], UserMessage):
                kept = kept[1:]
            return [replace(self, before=kept if len(kept) < len(self.before) else kept[2:])]
        if self.agent and len(self.before[0].text) > _SMALLEST:
            asked = self.before[0].text
            return [replace(self, before=(UserMessage(asked[len(asked) // 2 :]),), shortened=True)]
        if len(self.images) > 1:
            half = len(self.images) // 2
            return [replace(self, images=self.images[:half]), replace(self, images=self.images[half:])]
        if len(self.text) < _SMALLEST:
            raise error
        half = len(self.text) // 2
        first, second = self.text[: half + _OVERLAP], self.text[half - _OVERLAP :]
        return [replace(self, text=first), replace(self, text=second, images=())]


def judged_turns(item: Item) -> Turns:
    """Return the turns of an item's conversation, the item last.

    System messages are left out; a tool's result counts as the user's, neighbours of one side are joined.
    """
    agent = item.stage in ("tool_call", "output")
    turns: list[tuple[bool, list[Part]]] = []
    for message in item.messages[:-1] if item.messages else ():
        if isinstance(message, SystemMessage):
            continue
        said = _said(message)
        side = isinstance(message, AssistantMessage)
        if turns and turns[-1][0] is side:
            turns[-1][1].extend([Text("\n\n"), *said])
        else:
            turns.append((side, said))
    if turns and turns[-1][0] is agent:  # the item's own side: its turn begins with these words
        _, joined = turns.pop()
        turns.append((agent, joined))
        turns.append((not agent, [Text("…")]))
    if agent and not turns:
        turns.append((False, [Text("…")]))
    while turns and turns[0][0]:
        turns.pop(0)
    before = tuple(AssistantMessage(parts) if side else UserMessage(parts) for side, parts in turns)
    return Turns(before, agent, item.text, item.images)


def _plain(turn: Message) -> Message:
    return _turn(turn.parts, agent=isinstance(turn, AssistantMessage))


def _turn(parts: Sequence[Part], *, agent: bool) -> Message:
    plain = [Text(_SPECIAL.sub("< |", part.text)) if isinstance(part, Text) else part for part in parts]
    return AssistantMessage(plain) if agent else UserMessage(plain)


def _said(message: Message) -> list[Part]:
    parts = list(message.parts)
    if isinstance(message, AssistantMessage):
        parts += [Text(f"{call.name} {call.arguments}") for call in message.tool_calls]
    return parts or [Text("")]
