"""The events of one request, in the order in which they happen.

`Started` comes first and once, `Done` last and once; between them, in any number, the others. A failure
is an exception instead of `Done`. Text deltas never cut a character, and concatenate to the reply.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import ToolCall  # noqa: TC001 - read at run time, by pydantic among others
from llama4sdk.verdict import Verdict  # noqa: TC001 - as above

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "cancelled"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a request took, as the model's tokenizer counts them.

    Args:
        prompt_tokens: Tokens in, images and template included.
        completion_tokens: Tokens out.
        image_tokens: Of the prompt, those that stand for images.
        cached_tokens: Of the prompt, those whose computation was reused.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.completion_tokens, self.image_tokens, self.cached_tokens) < 0:
            raise InvalidRequest("Token counts cannot be negative.")

    @property
    def total_tokens(self) -> int:
        """Tokens in and out."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.image_tokens + other.image_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and how likely it was.

    Args:
        text: The token as text; part of a character shows as U+FFFD.
        logprob: Natural logarithm of its probability at temperature 1, before any filter.
        token_id: Its id, when known.
        top: The most probable tokens at that position, in falling order.
    """

    text: str
    logprob: float
    token_id: int | None = None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The backend has taken the request on."""

    request_id: str
    backend: str
    model: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Something is under way before, or beside, the text.

    Args:
        phase: What: `loading`, `queued`, `prefill`, or a backend's own word.
        done: How much of it is done, in `unit`.
        total: How much there is, when known.
        unit: `bytes`, `tokens`, `requests`, …
    """

    phase: str
    done: int
    total: int | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next stretch of text: one or more whole characters.

    Args:
        text: The text.
        logprobs: One entry for each token behind it, when they were asked for.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model began a tool call; `index` counts calls within the reply."""

    index: int
    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The next stretch of the call's arguments, as text."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallReady:
    """A call is complete and its arguments are known."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Partial:
    """The typed answer so far, from what is surely closed."""

    value: Any


@dataclass(frozen=True, slots=True)
class UsageUpdate:
    """Token counts so far."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Switched:
    """A wrapper moved the request to another backend, before any text or in its middle; text goes on where it stopped.

    Args:
        backend: The backend that answers from here on.
        reason: Why the one before does not.
        withdrawn: Whether the answer begins anew: text, calls and partial values before this event are no part of it.
        model: That backend's model; empty where it is the same or unknown.
    """

    backend: str
    reason: str
    withdrawn: bool = False
    model: str = ""


@dataclass(frozen=True, slots=True)
class GuardFlag:
    """A guard reported something and the turn goes on, or a guard failed under `on_error="allow"`.

    Args:
        verdict: The verdict, with its guard and stage; its status is `error` where the guard failed.
        call: The tool call, where one was checked.
    """

    verdict: Verdict
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The reply is complete.

    Args:
        finish_reason: Why it ended.
        usage: Final token counts, when known.
        details: More of the backend's own.
        verdicts: Those of the guards, in the order of the checks.
    """

    finish_reason: FinishReason
    usage: Usage | None = None
    details: dict[str, Any] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()


Event: TypeAlias = (
    Started
    | Progress
    | TextDelta
    | ToolCallStarted
    | ToolCallDelta
    | ToolCallReady
    | Partial
    | UsageUpdate
    | Switched
    | GuardFlag
    | Done
)
