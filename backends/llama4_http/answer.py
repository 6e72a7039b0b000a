"""The bytes of an answer → events: pure, and indifferent to where the reads cut them.

`AnswerReader` takes a stream of server-sent events, or one JSON body where a server would not stream, and
tells which by their first character, since content types lie. The answer is complete only with a finish
reason; whatever else ends it is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from llama4_http.errors import Sent, error_in_stream
from llama4_http.logprobs import read_logprobs
from llama4_http.sse import MAX_EVENT, SseParser
from llama4_http.tool_calls import ToolCallReader
from llama4sdk.errors import LlamaError, ProtocolError, ServerFault, StreamInterrupted
from llama4sdk.events import Done, Event, FinishReason, Progress, TextDelta, TokenLogprob, Usage
from llama4sdk.reply import Reply

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Mapping, Sequence

MAX_ANSWER = 64 << 20  # bytes of one answer, framing included

_BOM = b"\xef\xbb\xbf"
_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class AnswerReader:
    """Reads one answer.

    Args:
        sent: The request, for errors.
        out: Where events go, in order; what came before a failure stays there.
        max_event: Most bytes of one event.
        max_answer: Most bytes of the whole answer.
        image_tokens: Tokens that stand for the request's images, as far as known here.
        details: What `Done` shall tell beside the finish reason.
        check_prompt: Called with the token ids that the server made of the prompt, when it tells them.
    """

    def __init__(
        self,
        sent: Sent,
        out: deque[Event],
        *,
        max_event: int = MAX_EVENT,
        max_answer: int = MAX_ANSWER,
        image_tokens: int = 0,
        details: Mapping[str, Any] | None = None,
        check_prompt: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        self._sent = sent
        self._out = out
        self._sse = SseParser(max_event)
        self._max_event = max_event
        self._left = max_answer
        self._max_answer = max_answer
        self._image_tokens = image_tokens
        self._check_prompt = check_prompt
        self._head = b""  # the first bytes, until they tell a stream from a body
        self._begun = False
        self._body: bytearray | None = None  # a whole JSON body, when it is no stream
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []  # of tokens that have shown no text yet
        self._calls = ToolCallReader()
        self._usage: Usage | None = None
        self._reason: FinishReason | None = None
        self._details: dict[str, Any] = dict(details or {})
        self.done = False
        """Whether the last event, `Done`, has been handed out."""

    @property
    def finished(self) -> bool:
        """Whether a finish reason came, so that only counts can follow."""
        return self._reason is not None

    def feed(self, chunk: bytes) -> None:
        """Take bytes in; the events that they complete go to `out`.

        Raises:
            LlamaError: When the answer breaks the protocol or reports an error.
        """
        self._left -= len(chunk)
        if self._left < 0:
            raise ProtocolError(
                f"The answer is longer than {self._max_answer:,} bytes; set max_tokens, or raise max_answer_bytes."
            )
        if not self._begun:
            chunk = self._begin(chunk)
        if self._body is not None:
            self._add_to_body(chunk)
            return
        for data in self._sse.feed(chunk):
            self._event(data)

    def end(self) -> None:
        """Take the clean end of the answer in.

        Raises:
            LlamaError: When the answer was not complete.
        """
        if self.done:
            return
        if self._body is not None:
            self._completion(_parsed(bytes(self._body.removeprefix(_BOM))))
        else:
            for data in self._sse.close():
                self._event(data)
        if not self.done:
            self.finish()

    def broken_off(self, error: LlamaError) -> None:
        """Take a break of the connection in: raises `error`, unless the answer was complete by then."""
        if self._reason is None:
            raise error
        if not self.done:
            self.finish()

    def finish(self) -> None:
        """Hand out `Done`, now that nothing more is awaited.

        Raises:
            StreamInterrupted: Without a finish reason.
        """
        if self._reason is None:
            raise StreamInterrupted("The answer ended without a finish reason, so it is not complete.")
        if self._logprobs:
            raise ProtocolError("The server sent log-probabilities that belong to no text.")
        for call in self._calls.ready(cut=self._reason == "length"):
            self._out.append(call)
        self.done = True
        self._out.append(Done(self._reason, self._usage, self._details))

    def partial(self) -> Reply:
        """Return the reply as far as it came; never a complete one."""
        return Reply(
            text="".join(self._texts),
            usage=self._usage or Usage(),
            request_id=self._sent.request_id,
            backend=self._sent.backend,
        )

    def _begin(self, chunk: bytes) -> bytes:
        """Tell what kind of answer begins; return the bytes to be read now."""
        head = self._head + chunk
        first = head.removeprefix(_BOM).lstrip()[:1]
        if not first or (len(head) < len(_BOM) and _BOM.startswith(head)):
            if len(head) > self._max_event:
                raise ProtocolError("The server sends nothing but white space.")
            self._head = head
            return b""
        if first == b"<":
            raise ProtocolError("The server answered with a web page instead of an answer; is base_url right?")
        if first in (b"{", b"["):
            self._body = bytearray()
        self._begun = True
        return head

    def _add_to_body(self, chunk: bytes) -> None:
        if self._body is not None:
            self._body += chunk
            if len(self._body) > self._max_event:
                raise ProtocolError(f"The server answered with more than {self._max_event:,} bytes of JSON.")

    def _event(self, data: bytes) -> None:
        if self.done:
            return
        if data == b"[DONE]":
            self.finish()
            return
        if data.strip():
            self._chunk(_parsed(data))

    def _chunk(self, value: Any) -> None:
        # The common case first: one choice with one delta of text.
        try:
            choice = value["choices"][0]
            if choice["index"] == 0 and choice.get("finish_reason") is None and not choice.get("logprobs"):
                delta = choice["delta"]
                text = delta["content"]
                if text.__class__ is str and text and value.get("usage") is None and self._plain(value, delta):
                    self._texts.append(text)
                    self._out.append(TextDelta(text))
                    return
        except (KeyError, IndexError, TypeError, AttributeError):
            pass
        self._any_chunk(value)

    def _plain(self, value: dict[str, Any], delta: dict[str, Any]) -> bool:
        return not (self._logprobs or "error" in value or "tool_calls" in delta or self._check_prompt)

    def _any_chunk(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise ProtocolError("The server sent an event that is no JSON object.")
        if value.get("error") or value.get("object") == "error":
            raise error_in_stream(value.get("error") or value, self._sent)
        known = self._extras(value)
        choices = value.get("choices")
        if choices is None and known:
            return
        if not isinstance(choices, list):
            raise ProtocolError("The server sent an event whose choices are missing or no list.")
        for choice in choices:
            self._choice(choice)

    def _extras(self, value: dict[str, Any]) -> bool:
        """Read what stands beside the choices, and return whether there was any."""
        usage, progress, timings = value.get("usage"), value.get("prompt_progress"), value.get("timings")
        if usage is not None:
            self._usage = _usage(usage, self._image_tokens)
        if progress is not None:
            self._out.append(_progress(progress))
        if isinstance(timings, dict):
            self._details["timings"] = timings
        ids = value.get("prompt_token_ids")
        if isinstance(ids, list) and self._check_prompt is not None:
            check, self._check_prompt = self._check_prompt, None
            check(ids)
        return usage is not None or progress is not None or isinstance(timings, dict)

    def _choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            raise ProtocolError("The server sent a choice that is no object.")
        if choice.get("index") not in (0, None):
            return  # one answer is asked for
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            raise ProtocolError("The server sent a delta that is no object.")
        self._logprobs += read_logprobs(choice.get("logprobs"))
        self._text(choice["text"] if "text" in choice else delta.get("content"))
        calls = delta.get("tool_calls")
        if calls:
            self._out.extend(self._calls.add(calls))
        reason = choice.get("finish_reason")
        if reason:
            self._reason = self._reason_of(reason)

    def _text(self, text: Any) -> None:
        if text is not None and not isinstance(text, str):
            raise ProtocolError("The server sent text that is no string.")
        if text:
            self._texts.append(text)
            self._out.append(TextDelta(text, tuple(self._logprobs)))
            self._logprobs.clear()

    def _reason_of(self, reason: object) -> FinishReason:
        if reason in ("abort", "error"):
            raise ServerFault("The server gave the answer up before its end.")
        known = _REASONS.get(reason) if isinstance(reason, str) else None
        if known is None:
            raise ProtocolError("The server sent a finish reason that nobody knows.")
        self._logprobs.clear()  # of an end token, which shows no text
        return "tool_calls" if known == "stop" and len(self._calls) else known

    def _completion(self, value: Any) -> None:
        if isinstance(value, dict) and not value.get("error") and not isinstance(value.get("choices"), list):
            raise ProtocolError("The server answered with JSON that is no completion; is base_url right?")
        self._any_chunk(value)


def _parsed(data: bytes) -> Any:
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:
        raise ProtocolError(f"The server sent {len(data)} bytes that are not valid JSON in UTF-8.") from None


def _usage(value: Any, image_tokens: int) -> Usage:
    try:
        details = value.get("prompt_tokens_details") or {}
        return Usage(
            _count(value.get("prompt_tokens")),
            _count(value.get("completion_tokens")),
            _count(details.get("image_tokens")) or image_tokens,
            _count(details.get("cached_tokens")),
        )
    except (AttributeError, LlamaError):
        raise ProtocolError("The server sent token counts that are no counts.") from None


def _count(value: object) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < 2**53:
        raise ProtocolError("The server sent token counts that are no counts.")
    return value


def _progress(value: Any) -> Progress:
    if not isinstance(value, dict):
        raise ProtocolError("The server sent a progress that is no object.")
    return Progress("prefill", _count(value.get("processed")), _count(value.get("total")) or None, "tokens")
