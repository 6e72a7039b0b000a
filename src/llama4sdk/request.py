"""What a backend is asked for: the conversation, how to sample, and how long to wait."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import (
    AssistantMessage,
    Message,
    Prompt,
    SystemMessage,
    ToolMessage,
    UserMessage,
    conversation,
    tool_name,
)
from llama4sdk.parts import checked_text

ToolChoice: TypeAlias = Literal["auto", "none", "required"] | str
Part: TypeAlias = Literal["whole", "opening", "turn"]


def _number(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    if value is None:
        return
    span = (
        f"{'(' if above else '['}{low:g}, {high:g}]"
        if high != math.inf
        else f"{'above' if above else 'at least'} {low:g}"
    )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequest(f"{name} must be a finite number, {span}; got {value!r}.")
    if value > high or value < low or (above and value == low):
        raise InvalidRequest(f"{name} must be {'in ' if high != math.inf else ''}{span}; got {value!r}.")


def _whole(name: str, value: object, low: int, high: int | None = None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be a whole number; got {value!r}.")
    if value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidRequest(f"{name} must be {span}; got {value}.")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. What is None is left to the checkpoint's or the server's default.

    Args:
        temperature: 0 takes the likeliest token; up to 100.
        top_p: Smallest set of likeliest tokens whose probabilities sum to it, in (0, 1]
            (nucleus sampling, Holtzman et al. 2020).
        top_k: Only the k likeliest tokens; 0 for all.
        min_p: Only tokens at least this fraction as likely as the likeliest, in [0, 1]
            (Nguyen et al. 2024).
        max_tokens: Most tokens to write; None for what the context leaves.
        min_tokens: No stop before so many tokens.
        stop: Strings that end the answer; they are not part of it.
        stop_token_ids: Token ids that end the answer, beside the model's own.
        seed: The same seed gives the same text on the same backend.
        repetition_penalty: Divides (or multiplies) the logits of tokens seen in prompt or answer,
            above 0 (CTRL, Keskar et al. 2019).
        presence_penalty: Taken off the logit of each token already in the answer, in [-2, 2].
        frequency_penalty: Taken off per occurrence in the answer, in [-2, 2].
        logprobs: Report the log-probability of each token, with so many alternatives, 0 to 20.

    Raises:
        InvalidRequest: For a value outside its range.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0, 100)
        _number("top_p", self.top_p, 0, 1, above=True)
        _whole("top_k", self.top_k, 0)
        _number("min_p", self.min_p, 0, 1)
        _whole("max_tokens", self.max_tokens, 1)
        _whole("min_tokens", self.min_tokens, 0)
        _whole("seed", self.seed, -(2**63), 2**63 - 1)
        _number("repetition_penalty", self.repetition_penalty, 0, math.inf, above=True)
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        _whole("logprobs", self.logprobs, 0, 20)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens}).")
        object.__setattr__(self, "stop", _stops(self.stop))
        object.__setattr__(self, "stop_token_ids", _stop_ids(self.stop_token_ids))

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def _stops(stop: str | Sequence[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(strings) > 64:
        raise InvalidRequest(f"stop takes at most 64 strings; got {len(strings)}.")
    for string in strings:
        if not isinstance(string, str) or not string or len(string) > 1000:
            raise InvalidRequest("Each stop string has 1 to 1000 characters.")
        checked_text(string)
    return strings


def _stop_ids(ids: Sequence[int]) -> tuple[int, ...]:
    numbers = tuple(ids)
    for number in numbers:
        _whole("stop_token_ids", number, 0, 2**31 - 1)
    return numbers


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How many seconds each phase may take; None for no limit. Counted on events, never on bytes.

    Args:
        connect: Until a connection to the server stands.
        first_token: From the request until the model's first token.
        idle: From one event to the next, once the answer has begun.
        total: The whole call, retries included.

    Raises:
        InvalidRequest: For a deadline that is not a positive finite number.
    """

    connect: float | None = 10.0
    first_token: float | None = None
    idle: float | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect", "first_token", "idle", "total"):
            _number(f"deadlines.{name}", getattr(self, name), 0, math.inf, above=True)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model is told of it.

    Args:
        name: Its name, 1 to 64 letters, digits, `_`, `-` or `.`.
        description: What it does and when to call it.
        parameters: JSON schema of its arguments, an object.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    def __post_init__(self) -> None:
        tool_name(self.name)
        checked_text(self.description)
        if not isinstance(self.parameters, Mapping) or self.parameters.get("type") != "object":
            raise InvalidRequest(f"The parameters of the tool {self.name!r} must be a JSON schema of type object.")


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The form that an answer must have.

    Args:
        schema: JSON schema of the answer.
        name: A name for it, shown to servers that ask for one.
    """

    schema: Mapping[str, Any]
    name: str = "answer"


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a backend, complete and checked.

    Args:
        messages: The conversation; it ends with what the model shall answer.
        tools: The tools that the model may call.
        tool_choice: `auto`, `none`, `required`, or the name of the one tool to call.
        output: The form of the answer, when it is not free text.
        sampling: How tokens are chosen.
        deadlines: How long each phase may take.
        priority: Larger goes first where a backend queues.
        cache_salt: Prompts share cached computation only with the same salt.
        part: `whole`, or what the messages are of a session: its `opening`, which is computed but not answered and
            may end with anybody's message, or a `turn`, which goes on from what was said, be it with a tool's result.
        request_id: Names the request in events, errors and logs.

    Raises:
        InvalidRequest: For an empty conversation, roles in a wrong order, tools named twice, or a
            choice of a tool that was not declared.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = "auto"
    output: OutputSpec | None = None
    sampling: Sampling = Sampling()
    deadlines: Deadlines = Deadlines()
    priority: int = 0
    cache_salt: str = ""
    part: Part = "whole"
    request_id: str = field(default_factory=lambda: os.urandom(16).hex())

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        *,
        tools: tuple[ToolSpec, ...] = (),
        tool_choice: ToolChoice = "auto",
        output: OutputSpec | None = None,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
        priority: int = 0,
        cache_salt: str = "",
        part: Part = "whole",
    ) -> Self:
        """Return the request for a prompt in any form that `conversation` takes; None stands for the defaults.

        Raises:
            InvalidRequest: When it cannot be served as it stands.
        """
        return cls(
            conversation(prompt),
            tools,
            tool_choice,
            output,
            sampling or Sampling(),
            deadlines or Deadlines(),
            priority,
            cache_salt,
            part,
        )

    def __post_init__(self) -> None:
        check_order(self.messages, self.part)
        names = [tool.name for tool in self.tools]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidRequest(f"Tools must have different names; declared twice: {', '.join(twice)}.")
        if self.tool_choice not in ("auto", "none", "required") and self.tool_choice not in names:
            raise InvalidRequest(
                f"tool_choice is auto, none, required or a declared tool ({', '.join(names) or 'there is none'}); "
                f"got {self.tool_choice[:80]!r}."
            )
        if self.tool_choice == "required" and not names:
            raise InvalidRequest("tool_choice='required' needs at least one tool.")


def check_order(messages: Sequence[Message], part: Part = "whole") -> None:
    """Refuse a conversation that no model was trained on.

    System messages stand first, the user speaks before the assistant, a tool's result follows the
    calls, two assistant messages never stand side by side, and the last word is the user's or a tool's.

    Args:
        messages: The conversation.
        part: What it is of a session, as in `Request`: an `opening` may end with any message, a `turn` may begin
            with a tool's result.

    Raises:
        InvalidRequest: Naming the first message that is out of place.
    """
    if not messages:
        raise InvalidRequest("The conversation is empty; give at least one user message.")
    before: Message | None = None
    for index, message in enumerate(messages):
        problem = _misplaced_in_turn(message) if part == "turn" and before is None else _misplaced(before, message)
        if problem:
            raise InvalidRequest(f"Message {index} ({message.role}) is out of place: {problem}.")
        before = message
    if part != "opening" and not isinstance(before, UserMessage | ToolMessage):
        raise InvalidRequest(f"The last message must be the user's or a tool's, not the {messages[-1].role}'s.")


def _misplaced_in_turn(first: Message) -> str | None:
    if isinstance(first, UserMessage | ToolMessage):
        return None
    return "a turn of a session begins with the user or a tool's result"


def _misplaced(before: Message | None, message: Message) -> str | None:
    match message:
        case SystemMessage():
            return None if before is None else "a system message stands first, and alone"
        case AssistantMessage():
            if not isinstance(before, UserMessage | ToolMessage):
                return "the assistant answers a user or a tool"
        case ToolMessage():
            called = isinstance(before, AssistantMessage) and before.tool_calls
            if not called and not isinstance(before, ToolMessage):
                return "a tool's result follows the assistant message that called it"
        case UserMessage():
            return None
    return None
