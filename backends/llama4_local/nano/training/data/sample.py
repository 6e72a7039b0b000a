"""One training or test sample: a conversation whose last message is the right answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal, TypeAlias

from llama4sdk.messages import AssistantMessage, Message, SystemMessage, UserMessage

if TYPE_CHECKING:
    from llama4sdk.request import OutputSpec, ToolChoice, ToolSpec

Split: TypeAlias = Literal["train", "test"]
Exchange: TypeAlias = tuple[str, str]  # what the user says, what nano answers

_TEST_SHARE = 12  # one key in twelve is kept for tests
_SALT = "nano-1"


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation to learn from, or to be tested with.

    Args:
        skill: The skill it belongs to.
        messages: The conversation; the last message is the assistant's right answer.
        key: What the sample is about (numbers, names, layout …); decides training or test.
        tools: The tools declared to the model.
        choice: Whether and which tool must be called.
        output: The form of the answer, when one is asked for.
    """

    skill: str
    messages: tuple[Message, ...]
    key: str
    tools: tuple[ToolSpec, ...] = ()
    choice: ToolChoice = "auto"
    output: OutputSpec | None = None

    @property
    def answer(self) -> AssistantMessage:
        """The right answer to the conversation before it."""
        last = self.messages[-1]
        if not isinstance(last, AssistantMessage):
            raise TypeError("A sample ends with the assistant's answer.")
        return last


Maker: TypeAlias = Callable[[Random], Sample]


def split_of(key: str) -> Split:
    """Return the split that a key belongs to, the same on every machine."""
    digest = hashlib.sha256(f"{_SALT}:{key}".encode()).digest()
    return "test" if digest[0] % _TEST_SHARE == 0 else "train"


def messages_of(exchanges: list[Exchange], system: str = "") -> tuple[Message, ...]:
    """Return the messages of a plain text conversation."""
    messages: list[Message] = [SystemMessage(system)] if system else []
    for said, answered in exchanges:
        messages += [UserMessage(said), AssistantMessage(answered)]
    return tuple(messages)
