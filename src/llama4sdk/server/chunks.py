"""The events of one answer → the bytes of its server-sent events: pure.

What is the same in every chunk of an answer is written once.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError, to_json

from llama4sdk.errors import StreamInterrupted
from llama4sdk.server.logprobs import chat_logprobs, completion_logprobs
from llama4sdk.surrogates import mended

if TYPE_CHECKING:
    from llama4sdk.events import FinishReason, TextDelta, Usage
    from llama4sdk.tool_call import ToolCall

DONE = b"data: [DONE]\n\n"
PING = b": still at work\n\n"
ROLE = {"role": "assistant", "content": "", "refusal": None}


def event_of(data: bytes) -> bytes:
    """Return a server-sent event."""
    return b"data: " + data + b"\n\n"


def encoded(text: str) -> bytes:
    """Return the JSON of a text; half of a surrogate pair becomes U+FFFD."""
    try:
        return to_json(text)
    except (PydanticSerializationError, UnicodeEncodeError):
        return to_json(mended(text))


def call_fields(call: ToolCall) -> dict[str, Any]:
    """Return a call as chat answers write it; the arguments of one that must not run are the problem, and no JSON."""
    arguments = json.dumps(call.arguments, ensure_ascii=False) if call.problem is None else call.problem
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": mended(arguments)}}


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Return token counts as answers write them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "image_tokens": usage.image_tokens},
    }


def finish_word(reason: FinishReason) -> str:
    """Return a finish reason in the words of the wire.

    Raises:
        StreamInterrupted: The answer was cancelled, which is no end.
    """
    if reason == "cancelled":
        raise StreamInterrupted("The answer was cancelled before its end.")
    return reason


class Head:
    """The fields that every chunk and every whole answer of a request begin with.

    Args:
        kind: `chat.completion`, or `text_completion`.
        prefix: Begins the answer's id.
        request_id: The request's id.
        model: The model's name.
    """

    def __init__(self, kind: str, prefix: str, request_id: str, model: str) -> None:
        self.fields = {"id": f"{prefix}-{request_id}", "object": kind, "created": int(time.time()), "model": model}

    def bytes_of(self, **more: object) -> bytes:
        """Return the JSON of the head and further fields."""
        return to_json(self.fields | more)


class Chunks(ABC):
    """Writes the chunks of one answer.

    Args:
        head: Begins every chunk.
        index: The answer's number.
        counted: Whether the stream ends with token counts, which the chunks before then say.
    """

    def __init__(self, head: Head, index: int, *, counted: bool) -> None:
        self._open = event_of(head.bytes_of())[:-3] + b',"choices":[{"index":%d,' % index
        self._end = b'}],"usage":null}\n\n' if counted else b"}]}\n\n"
        self._plain = b',"logprobs":null,"finish_reason":null' + self._end

    @abstractmethod
    def begin(self) -> bytes:
        """Return what comes before the first text."""

    @abstractmethod
    def text(self, delta: TextDelta) -> bytes:
        """Return the chunk of a stretch of text."""

    @abstractmethod
    def finish(self, reason: FinishReason) -> bytes:
        """Return the last chunk of the answer."""

    @abstractmethod
    def call(self, call: ToolCall, number: int) -> bytes:
        """Return the chunk of a complete tool call."""


class ChatChunks(Chunks):
    """Writes the chunks of a chat answer."""

    def begin(self) -> bytes:
        """Return the chunk that names the role."""
        return self._open + b'"delta":' + to_json(ROLE) + self._plain

    def text(self, delta: TextDelta) -> bytes:
        """Return the chunk of a stretch of text."""
        head = self._open + b'"delta":{"content":' + encoded(delta.text) + b"}"
        if not delta.logprobs:
            return head + self._plain
        return head + b',"logprobs":' + to_json(chat_logprobs(delta.logprobs)) + b',"finish_reason":null' + self._end

    def call(self, call: ToolCall, number: int) -> bytes:
        """Return the chunk of a complete tool call."""
        fields = {"tool_calls": [{"index": number, **call_fields(call)}]}
        return self._open + b'"delta":' + to_json(fields) + self._plain

    def finish(self, reason: FinishReason) -> bytes:
        """Return the chunk with the finish reason."""
        end = b',"logprobs":null,"finish_reason":' + to_json(finish_word(reason)) + self._end
        return self._open + b'"delta":{}' + end


class CompletionChunks(Chunks):
    """Writes the chunks of a completion.

    Args:
        head: Begins every chunk.
        index: The answer's number.
        counted: Whether the stream ends with token counts.
        echo: The prompt, where it is repeated.
    """

    def __init__(self, head: Head, index: int, *, counted: bool, echo: TextDelta | None = None) -> None:
        super().__init__(head, index, counted=counted)
        self._echo = echo
        self._written = 0

    def begin(self) -> bytes:
        """Return the repeated prompt."""
        return b"" if self._echo is None else self.text(self._echo)

    def text(self, delta: TextDelta) -> bytes:
        """Return the chunk of a stretch of text."""
        head = self._open + b'"text":' + encoded(delta.text)
        offset, self._written = self._written, self._written + len(delta.text)
        if not delta.logprobs:
            return head + self._plain
        logprobs = to_json(completion_logprobs(delta.logprobs, offset))
        return head + b',"logprobs":' + logprobs + b',"finish_reason":null' + self._end

    def call(self, call: ToolCall, number: int) -> bytes:
        """Return nothing: completions have no tools."""
        del call, number
        return b""

    def finish(self, reason: FinishReason) -> bytes:
        """Return the chunk with the finish reason."""
        end = b',"logprobs":null,"finish_reason":' + to_json(finish_word(reason)) + self._end
        return self._open + b'"text":""' + end


def usage_chunk(head: Head, usage: Usage) -> bytes:
    """Return the chunk of the token counts, which has no choice."""
    return event_of(head.bytes_of(choices=[], usage=usage_fields(usage)))
