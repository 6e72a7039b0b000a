"""The outcomes of bulk work: one for each prompt, and a tally of all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal

from llama4sdk.errors import InvalidRequest, LlamaError
from llama4sdk.events import Usage
from llama4sdk.reply import Answer, Reply

if TYPE_CHECKING:
    from llama4sdk.messages import Prompt


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Answer]):
    """The outcome of one prompt: a reply, or an error; each that bulk work yields is an `Answered` or a `Failed`.

    Args:
        index: Its place among the prompts, from 0.
        key: SHA-256, in hex, of the conversation and of how it was to be answered; empty for what is no prompt.
        prompt: The prompt as it was handed in.
        reply: The reply, when there is one.
        error: Why there is none.
        resumed: Whether the reply was read from the journal rather than asked for now.

    Raises:
        InvalidRequest: With both a reply and an error, or neither.
    """

    index: int
    key: str
    prompt: Prompt
    reply: Reply[Answer] | None = None
    error: LlamaError | None = None
    resumed: bool = False

    def __post_init__(self) -> None:
        if (self.reply is None) == (self.error is None):
            raise InvalidRequest("An outcome has either a reply or an error.")

    @property
    def ok(self) -> bool:
        """Whether there is a reply."""
        return self.error is None

    def result(self) -> Reply[Answer]:
        """Return the reply.

        Raises:
            LlamaError: The error in its place.
        """
        if self.reply is None:
            raise self.error or InvalidRequest("An outcome has either a reply or an error.")
        return self.reply


@dataclass(frozen=True, slots=True)
class Answered(Outcome[Answer]):
    """The outcome of a prompt that was answered: its `reply` is there."""

    reply: Reply[Answer] = field(kw_only=True)
    error: None = None

    @property
    def ok(self) -> Literal[True]:
        """True: there is a reply."""
        return True


@dataclass(frozen=True, slots=True)
class Failed(Outcome[Answer]):
    """The outcome of a prompt that failed: its `error` is there."""

    reply: None = None
    error: LlamaError = field(kw_only=True)

    @property
    def ok(self) -> Literal[False]:
        """False: there is an error."""
        return False


@dataclass(frozen=True, slots=True)
class Tally:
    """How far the work is.

    Args:
        answered: Prompts with a reply.
        failed: Prompts with an error.
        resumed: Of the answered, those that the journal knew.
        usage: Token counts of the replies that were asked for now.
    """

    answered: int = 0
    failed: int = 0
    resumed: int = 0
    usage: Usage = Usage()

    @property
    def done(self) -> int:
        """Prompts that have an outcome."""
        return self.answered + self.failed

    def plus(self, outcome: Outcome[Any]) -> Tally:
        """Return the tally with one outcome more."""
        if outcome.reply is None:
            return replace(self, failed=self.failed + 1)
        if outcome.resumed:
            return replace(self, answered=self.answered + 1, resumed=self.resumed + 1)
        return replace(self, answered=self.answered + 1, usage=self.usage + outcome.reply.usage)
