"""The reply: what the events of one request add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, assert_never

from typing_extensions import TypeVar

from llama4sdk.events import (
    Done,
    Event,
    FinishReason,
    GuardFlag,
    Partial,
    Progress,
    Started,
    Switched,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallReady,
    ToolCallStarted,
    Usage,
    UsageUpdate,
)
from llama4sdk.messages import AssistantMessage, ToolCall
from llama4sdk.timing import Timing  # noqa: TC001 - read at run time, by pydantic
from llama4sdk.verdict import Verdict  # noqa: TC001 - read at run time, by pydantic among others

__all__ = ["Answer", "Reply", "ReplyBuilder", "Usage"]

# The type of a typed answer: None where none was asked for.
Answer = TypeVar("Answer", covariant=True, default=Any)

_NONE: Any = None


@dataclass(frozen=True, slots=True)
class Reply(Generic[Answer]):
    """The model's answer, or its state so far.

    Args:
        text: The text; empty when it only called tools.
        tool_calls: The calls it asked for.
        output: The typed answer, when one was asked for; None in a reply that calls tools, or was cut (`complete`).
        usage: Token counts.
        finish_reason: Why it ended; None while it has not.
        logprobs: One entry per token, when they were asked for.
        request_id: The request's name.
        backend: The backend that answered.
        model: The model that answered.
        guards: The verdicts of the guards, each with guard, stage, coverage and time; those that flagged while it
            is under way.
        timing: How long its phases took; None where it was not measured, as in a journal.
        alternatives: The further answers, where `Sampling.n` asked for more than one.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    output: Answer = _NONE
    usage: Usage = Usage()
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    request_id: str = ""
    backend: str = ""
    model: str = ""
    guards: tuple[Verdict, ...] = ()
    timing: Timing | None = field(default=None, compare=False)
    alternatives: tuple[Reply[Answer], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the model came to its own end: neither cut, nor cancelled, nor under way."""
        return self.finish_reason in ("stop", "tool_calls")

    @property
    def message(self) -> AssistantMessage:
        """The reply as a message, to go on with the conversation."""
        return AssistantMessage(self.text, tool_calls=self.tool_calls)

    def __str__(self) -> str:
        return self.text


class ReplyBuilder:
    """Adds events up; `snapshot()` costs nothing until it is asked for."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._calls: dict[int, ToolCall] = {}
        self._logprobs: list[TokenLogprob] = []
        self._output: Any = None
        self._usage = Usage()
        self._finish_reason: FinishReason | None = None
        self._names = ("", "", "")
        self._guards: tuple[Verdict, ...] = ()
        self._snapshot: Reply[Any] | None = None

    def add(self, event: Event) -> None:
        """Take one event in."""
        self._snapshot = None
        match event:
            case TextDelta():
                self._texts.append(event.text)
                self._logprobs.extend(event.logprobs)
            case Started():
                self._names = (event.request_id, event.backend, event.model)
            case ToolCallReady():
                self._calls[event.index] = event.call
            case Partial():
                self._output = event.value
            case UsageUpdate():
                self._usage = event.usage
            case Switched():
                self._names = (self._names[0], event.backend, event.model or self._names[2])
                if event.withdrawn:
                    self._withdraw()
            case Done():
                self._finish_reason = event.finish_reason
                self._usage = event.usage or self._usage
                self._guards = event.verdicts or self._guards
            case GuardFlag():
                self._guards = (*self._guards, event.verdict)
            case Progress() | ToolCallStarted() | ToolCallDelta():
                pass
            case _:
                assert_never(event)

    def _withdraw(self) -> None:
        self._texts, self._calls, self._logprobs, self._output = [], {}, [], None

    def snapshot(self) -> Reply[Any]:
        """Return the reply so far."""
        if self._snapshot is None:
            self._texts = ["".join(self._texts)]
            request_id, backend, model = self._names
            self._snapshot = Reply(
                text=self._texts[0],
                tool_calls=tuple(call for _, call in sorted(self._calls.items())),
                output=self._output,
                usage=self._usage,
                finish_reason=self._finish_reason,
                logprobs=tuple(self._logprobs),
                request_id=request_id,
                backend=backend,
                model=model,
                guards=self._guards,
            )
        return self._snapshot
