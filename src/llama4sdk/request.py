"""The request to a backend: the conversation, its sampling parameters and its deadlines."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias, cast, get_args

from llama4sdk.checks import check_number, check_text, check_whole, explains_fields, shown
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
from llama4sdk.sampling import Sampling as Sampling
from llama4sdk.schema_drafts import modern

ToolChoice: TypeAlias = Literal["auto", "none", "required"] | str
Part: TypeAlias = Literal["whole", "opening", "turn", "judged"]
# A prompt without messages: text, or token ids.
RawPrompt: TypeAlias = str | tuple[int, ...]


_LARGEST = 2**31 - 1  # of counts: above any context
_LONGEST_NAME = 1024  # characters of a salt or an id
_LONGEST_DESCRIPTION = 1_000_000  # characters
_LONGEST_ANSWER = 100_000_000  # characters


@explains_fields
@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that each phase may take; None for no limit. Counted on events, never on bytes.

    The defaults end a call to a server that is gone and let a slow model think: 10 s to connect, 10 minutes to the
    first token and from one event to the next.

    Args:
        connect: Until a connection to the server stands.
        first_token: From the request until the model's first token.
        idle: From one event to the next, once the answer has begun.
        total: The whole call, retries included.

    Raises:
        InvalidRequest: For a deadline that is not a positive finite number.
    """

    connect: float | None = 10.0
    first_token: float | None = 600.0
    idle: float | None = 600.0
    total: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect", "first_token", "idle", "total"):
            check_number(f"deadlines.{name}", getattr(self, name), 0, math.inf, above=True)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model is told of it.

    Args:
        name: Its name, 1 to 64 letters, digits, `_`, `-` or `.`.
        description: What it does and when to call it.
        parameters: JSON schema of its arguments, an object; forms of older drafts, and types such as `dict` and
            `float`, are rewritten as draft 2020-12 has them.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    def __post_init__(self) -> None:
        tool_name(self.name)
        check_text(f"The description of the tool {self.name!r}", self.description, _LONGEST_DESCRIPTION)
        if isinstance(self.parameters, Mapping):
            object.__setattr__(self, "parameters", modern(self.parameters))
        if not isinstance(self.parameters, Mapping) or self.parameters.get("type") != "object":
            raise InvalidRequest(f"The parameters of the tool {self.name!r} must be a JSON schema of type object.")


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The form that an answer must have.

    Args:
        schema: JSON schema of the answer; forms of older drafts are rewritten as draft 2020-12 has them.
        name: A name for it, shown to servers that ask for one.
    """

    schema: Mapping[str, Any]
    name: str = "answer"

    def __post_init__(self) -> None:
        if not isinstance(self.schema, Mapping | bool):
            raise InvalidRequest(f"The schema of an answer is a JSON schema, a mapping; got {shown(self.schema)}.")
        if isinstance(self.schema, Mapping):
            object.__setattr__(self, "schema", modern(self.schema))
        check_text("The name of an answer's schema", self.name, _LONGEST_NAME)


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
            may end with any message, or a `turn`, which goes on from what was said, be it with a tool's result;
            or `judged`: a conversation that a guard model judges, which may end with the assistant's message.
        answer_so_far: Text with which the answer begins, as the model wrote it: the model goes on behind it, and the
            events hold only what follows. Counts of `sampling` are of further tokens; in the usage its tokens belong
            to the prompt. Only for backends whose capabilities `continues` allow it.
        request_id: Names the request in events, errors and logs.
        raw: A prompt that is completed as it stands, without template, in place of messages; for backends with
            `Capabilities.raw_prompts`. In text, the names of special tokens stand for these tokens.
        trace_headers: Headers by which a server's trace goes on from the caller's, as pairs; others pass them over.

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
    answer_so_far: str = ""
    request_id: str = field(default_factory=lambda: os.urandom(16).hex())
    raw: RawPrompt | None = None
    trace_headers: tuple[tuple[str, str], ...] = ()

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
            Sampling() if sampling is None else sampling,
            Deadlines() if deadlines is None else deadlines,
            priority,
            cache_salt,
            part,
        )

    def __post_init__(self) -> None:
        self._check_types()
        if self.raw is not None:
            self._check_raw(self.raw)
            return
        check_order(self.messages, self.part)
        names = [tool.name for tool in self.tools]
        check_different(names)
        if self.tool_choice not in ("auto", "none", "required") and self.tool_choice not in names:
            raise InvalidRequest(
                f"tool_choice is auto, none, required or a declared tool ({', '.join(names) or 'there is none'}); "
                f"got {shown(self.tool_choice)}."
            )
        if self.tool_choice == "required" and not names:
            raise InvalidRequest("tool_choice='required' needs at least one tool.")

    def _check_raw(self, raw: RawPrompt) -> None:
        if self.messages or self.tools or self.part != "whole":
            raise InvalidRequest("A raw prompt stands alone: without messages, tools or a session.")
        if isinstance(raw, str):
            checked_text(raw)
            return
        if not isinstance(raw, tuple) or not raw:
            raise InvalidRequest(f"A raw prompt is text or a tuple of token ids, at least one; got {shown(raw)}.")
        for token in raw:
            check_whole("a token id", token, 0, _LARGEST, optional=False)

    def _check_types(self) -> None:
        kinds: tuple[tuple[str, object, type | tuple[type, ...]], ...] = (
            ("messages", self.messages, tuple),
            ("tools", self.tools, tuple),
            ("tool_choice", self.tool_choice, str),
            ("output", self.output, (OutputSpec, type(None))),
            ("sampling", self.sampling, Sampling),
            ("deadlines", self.deadlines, Deadlines),
        )
        for name, value, kind in kinds:
            if not isinstance(value, kind):
                raise InvalidRequest(f"{name} {_HOW[name]}; got {shown(value)}.")
        for name, members, kind in (("tools", self.tools, ToolSpec), ("messages", self.messages, _MESSAGES)):
            for member in members:
                if not isinstance(member, kind):
                    raise InvalidRequest(f"{name} {_HOW[name]}; got {shown(member)} among them.")
        if not isinstance(self.part, str) or self.part not in get_args(Part):
            raise InvalidRequest(f"part is one of {', '.join(get_args(Part))}; got {shown(self.part)}.")
        check_whole("priority", self.priority, -_LARGEST, _LARGEST, optional=False)
        check_text("cache_salt", self.cache_salt, _LONGEST_NAME)
        check_text("answer_so_far", self.answer_so_far, _LONGEST_ANSWER)
        check_text("request_id", self.request_id, _LONGEST_NAME)
        _check_headers(self.trace_headers)


def check_different(names: Sequence[str]) -> None:
    """Refuse names of tools that occur more than once.

    Raises:
        InvalidRequest: Naming them.
    """
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise InvalidRequest(f"Tools must have different names; declared twice: {', '.join(twice)}.")


def _check_headers(headers: object) -> None:
    for pair in headers if isinstance(headers, tuple) else (headers,):
        match pair:
            case (str(name), str(value)) if _HEADER.fullmatch(name) and value.isascii() and value.isprintable():
                continue
            case _:
                raise InvalidRequest("trace_headers is a tuple of pairs, a header's name and its printable value.")


_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_MESSAGES = (SystemMessage, UserMessage, AssistantMessage, ToolMessage)
_HOW = {
    "messages": "is a tuple of messages, as conversation() returns it",
    "tools": "is a tuple of ToolSpec values",
    "tool_choice": "is auto, none, required or the name of a tool; leave it out for auto",
    "output": "is an OutputSpec, or None for free text",
    "sampling": "is a Sampling value, such as Sampling(temperature=0.5)",
    "deadlines": "is a Deadlines value, such as Deadlines(total=30)",
}


def raw_prompt(prompt: object) -> RawPrompt:
    """Return a prompt without messages as `Request` takes it: text as it is, token ids of any sequence as a tuple.

    Raises:
        InvalidRequest: It is neither; what the ids are is left to `Request`.
    """
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, Iterable) or isinstance(prompt, bytes | bytearray | memoryview | Mapping):
        raise InvalidRequest(f"A raw prompt is text or token ids, at least one; got {shown(prompt)}.")
    return tuple(cast("Iterable[int]", prompt))


def check_order(messages: Sequence[Message], part: Part = "whole") -> None:
    """Refuse a conversation that no model was trained on.

    System messages stand first, the user speaks before the assistant, a tool's result follows the
    calls, two assistant messages never stand side by side, and the last word is the user's or a tool's.

    Args:
        messages: The conversation.
        part: As in `Request`: an `opening` and a `judged` conversation may end with any message, a `turn` may begin
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
    if part not in ("opening", "judged") and not isinstance(before, UserMessage | ToolMessage):
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
