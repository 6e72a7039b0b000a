"""One case: a conversation, and the verdict on its last turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from llama4sdk.messages import AssistantMessage, Message, Text, UserMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.nano.training.guard.data.choices import Choices
    from llama4sdk.messages import Image

SAFE = "safe"


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation in the form that `LlamaGuard` hands to its backend, with the right verdict.

    Args:
        messages: Alternating turns, their content in parts; the last is judged.
        code: The category of harm, such as `S9`; empty for a safe turn.
    """

    messages: tuple[Message, ...]
    code: str = ""

    @property
    def verdict(self) -> str:
        """What the guard is to answer."""
        return f"unsafe\n{self.code}" if self.code else SAFE


Maker: TypeAlias = "Callable[[Choices], Case]"


def user(text: str, *images: Image) -> UserMessage:
    """Return a user's turn in parts, images first."""
    return UserMessage([*images, Text(text)])


def agent(text: str) -> AssistantMessage:
    """Return an agent's turn in parts."""
    return AssistantMessage([Text(text)])
