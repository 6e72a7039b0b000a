"""The bytes of an answer → events: pure, and the same wherever the reads cut them.

`AnswerReader` takes a stream of server-sent events, or one JSON body from a server that does not stream, and
tells them apart by their first character, since content types are often wrong. A stream is complete only with a
finish reason, and then nothing that follows can spoil it; any other end is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llama4_http.begun_answer import without_repeated
from llama4_http.content import text_of
from llama4_http.errors import Sent, error_in_stream
from llama4_http.finish_reasons import given_reason, read_reason
from llama4_http.json_text import CutJsonError, parsed
from llama4_http.logprobs import read_logprobs
from llama4_http.marks import MarkFilter
from llama4_http.reported import may_report, reported, tells_of_trouble
from llama4_http.sse import MAX_EVENT, SseParser
from llama4_http.surrogates import SurrogateJoiner
from llama4_http.tool_calls import ToolCallReader
from llama4_http.usage import read_progress, read_usage, usage_of
from llama4sdk.errors import LlamaError, ProtocolError, StreamInterrupted
from llama4sdk.events import Done, Event, FinishReason, TextDelta, TokenLogprob, ToolCallReady, Usage
from llama4sdk.reply import Reply

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Mapping, Sequence

    from llama4sdk.request import ToolSpec

MAX_ANSWER = 64 << 20  # bytes of one answer, framing included

_BOM = b"\xef\xbb\xbf"
_PLAIN = (b"{", b"[", b'"')  # how the events begin that are JSON


class AnswerReader:
    """Reads one answer.

    Args:
        sent: The request, for errors.
        out: Takes the events, in order; those before a failure stay there.
        max_event: Most bytes of one event.
        max_answer: Most bytes of the whole answer.
        image_tokens: Tokens that stand for the request's images, as far as known here.
        details: The details of `Done`.
        check_prompt: Called with the token ids that the server made of the prompt, when it returns them.
        tools: The tools that the model may call.
        repeated: White space that the answer may begin with and that was shown before.
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
        tools: Sequence[ToolSpec] = (),
        repeated: str = "",
    ) -> None:
        self._sent = sent
        self._out = out
        self._sse = SseParser(max_event)
        self._max_event = max_event
        self._left = max_answer
        self._max_answer = max_answer
        self._image_tokens = image_tokens
        self._check_prompt = check_prompt
        self._mismatch: LlamaError | None = None  # raised by check_prompt
        self._head = b""  # the first bytes, until a stream and a body can be told apart
        self._begun = False
        self._body: bytearray | None = None  # a whole JSON body, when it is no stream
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []  # of tokens that have shown no text yet
        self._joiner = SurrogateJoiner()
        self._escaped = True  # whether the event under way may hold lone surrogates
        self._marks = MarkFilter() if tools else None
        self._repeated = repeated
        self._calls = ToolCallReader(tools)
        self._usage: Usage | None = None
        self._told: object = None  # words that are an error if the answer ends without a finish reason
        self._by_message = False  # whether the text comes in messages instead of deltas
        self._odd_reason = False
        self._reason: FinishReason | None = None
        self._details: dict[str, Any] = dict(details or {})
        self.done = False
        """Whether the last event, `Done`, has been handed out."""

    @property
    def finished(self) -> bool:
        """Whether a finish reason came, so that only counts can follow."""
        return self._reason is not None

    @property
    def usage(self) -> Usage:
        """The token counts that the server sent; before they come, the pieces of text as so many tokens at least."""
        return self._usage or Usage(0, len(self._texts), self._image_tokens)

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
        try:
            events = self._sse.feed(chunk)
        except ProtocolError as error:
            self._spoilt(error)
            return
        for data in events:
            self._event(data)

    def end(self) -> None:
        """Take the clean end of the answer in.

        Raises:
            LlamaError: When the answer was not complete.
        """
        if self.done:
            return
        try:
            if self._body is not None:
                self._end_body(bytes(self._body.removeprefix(_BOM)))
            else:
                for data in self._sse.close():
                    self._event(data, at_end=True)
        except CutJsonError:
            raise _cut() from None
        if not self.done:
            self.finish()

    def broken_off(self, error: LlamaError) -> None:
        """Take a break of the connection in: raises `error`, unless the answer was complete by then."""
        if self._reason is None:
            raise self._told_error() or error
        if not self.done:
            self.finish()

    def finish(self) -> None:
        """Hand out the finished calls and `Done`.

        Raises:
            LlamaError: Without a finish reason: the error that the server told, else `StreamInterrupted`.
        """
        if self._reason is None:
            raise self._told_error() or StreamInterrupted(
                "The answer ended without a finish reason, so it is not complete."
            )
        rest = (self._marks.feed(self._joiner.close()) + self._marks.close()) if self._marks else self._joiner.close()
        self._show(rest)
        calls = self._calls.ready(cut=self._reason == "length" or self._odd_reason)
        self._out.extend(calls)
        if self._reason in ("stop", "tool_calls"):
            self._reason = "tool_calls" if any(isinstance(event, ToolCallReady) for event in calls) else "stop"
        self.done = True
        self._out.append(Done(self._reason, self._usage, self._details))

    def _told_error(self) -> LlamaError | None:
        return None if self._told is None else error_in_stream(self._told, self._sent)

    def partial(self) -> Reply:
        """Return the reply so far; never a complete one."""
        return Reply(
            text="".join(self._texts),
            usage=self._usage or Usage(),
            request_id=self._sent.request_id,
            backend=self._sent.backend,
        )

    def _begin(self, chunk: bytes) -> bytes:
        """Distinguish a stream from a body; return the bytes to be read now."""
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

    def _event(self, data: bytes, *, at_end: bool = False) -> None:
        if self.done:
            return
        if data == b"[DONE]":
            self.finish()
            return
        if not data.strip():
            return
        if at_end and self._reason is None and b"[DONE]".startswith(data.strip()):
            raise _cut()
        self._escaped = b"\\u" in data
        try:
            try:
                value = parsed(data)
            except ProtocolError as error:
                for value in self._odd_values(data, error):
                    self._chunk(value)
            else:
                self._chunk(value)
        except CutJsonError as error:
            self._spoilt(_cut() if at_end else ProtocolError(str(error)))
        except LlamaError as error:
            self._spoilt(error)

    def _odd_values(self, data: bytes, error: ProtocolError) -> list[Any]:
        """Return the values of an event that is not one: one for each of its lines, or none where it is plain text.

        Raises:
            ProtocolError: `error`, where it is neither.
        """
        lines = [line for line in data.split(b"\n") if line.strip() not in (b"", b"[DONE]")]
        if len(lines) > 1 and all(line.lstrip().startswith(b"{") for line in lines):
            return [parsed(line) for line in lines]
        if data.lstrip().startswith(_PLAIN) or not data.isascii():
            raise error
        text = data.decode()
        self._told = text if tells_of_trouble(text) else self._told
        return []

    def _spoilt(self, error: LlamaError) -> None:
        """Raise `error`, unless the answer is complete: then end it."""
        if self._reason is None or error is self._mismatch:
            raise error
        if not self.done:
            self.finish()

    def _chunk(self, value: Any) -> None:
        # The common case first: one choice with one delta of text.
        try:
            choice = value["choices"][0]
            if choice["index"] == 0 and choice.get("finish_reason") is None and not choice.get("logprobs"):
                delta = choice["delta"]
                text = delta["content"]
                if text.__class__ is str and text and value.get("usage") is None and self._is_plain(value, delta):
                    self._texts.append(text)
                    self._out.append(TextDelta(text))
                    return
        except (KeyError, IndexError, TypeError, AttributeError):
            pass
        self._any_chunk(value)

    def _is_plain(self, value: dict[str, Any], delta: dict[str, Any]) -> bool:
        return not (
            self._logprobs
            or "error" in value
            or delta.get("tool_calls")
            or self._check_prompt
            or self._marks
            or self._repeated
            or self._escaped
            or self._joiner.pending
        )

    def _any_chunk(self, value: Any) -> None:
        if isinstance(value, list) and len(value) == 1:  # as Google's gateways wrap an error
            value = value[0]
        if value is None:  # an empty event
            return
        if not isinstance(value, dict):
            raise ProtocolError("The server sent an event that is no JSON object.")
        error = reported(value)
        if error is not None:
            raise error_in_stream(error, self._sent)
        if may_report(value):
            self._told = value
        choices = value.get("choices")
        if choices is not None and not isinstance(choices, list):
            raise ProtocolError("The server sent an event whose choices are no list.")
        for choice in choices or ():  # without any: counts, a ping, or an event of another API
            self._choice(choice)
        self._extras(value)

    def _extras(self, value: dict[str, Any]) -> None:
        """Read the fields beside the choices."""
        usage, progress, timings = usage_of(value), value.get("prompt_progress"), value.get("timings")
        if usage and (usage := read_usage(usage, self._image_tokens)) != Usage(0, 0, self._image_tokens):
            self._usage = usage
        if progress is not None:
            self._out.append(read_progress(progress))
        if isinstance(timings, dict):
            self._details["timings"] = timings
        ids = value.get("prompt_token_ids")
        if isinstance(ids, list) and self._check_prompt is not None:
            check, self._check_prompt = self._check_prompt, None
            try:
                check(ids)
            except LlamaError as error:
                self._mismatch = error
                raise

    def _choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            raise ProtocolError("The server sent a choice that is no object.")
        if choice.get("index") not in (0, None, "0"):
            return  # one answer is asked for
        delta = choice.get("delta") or self._message(choice.get("message")) or {}
        if not isinstance(delta, dict):
            raise ProtocolError("The server sent a delta that is no object.")
        self._logprobs += read_logprobs(choice.get("logprobs"))
        self._text(delta.get("content") or choice.get("text"))
        calls = delta.get("tool_calls")
        if not calls and delta.get("function_call"):  # the form before `tool_calls`
            calls = [{"index": 0, "function": delta["function_call"]}]
        if calls:
            if self._marks:
                self._marks.call()
            self._out.extend(self._calls.add(calls, whole=self._body is not None))
        reason = given_reason(choice.get("finish_reason"))
        if reason or (self._body is not None and ("message" in choice or "text" in choice)):
            self._reason = self._reason_of(reason)

    def _message(self, message: object) -> object:
        """Return what a whole message adds: nothing but calls behind an answer that came in deltas."""
        if self._body is not None or self._by_message or not (self._texts or len(self._calls)):
            self._by_message = self._by_message or bool(message)
            return message
        repeated = len(self._calls) or not isinstance(message, dict)
        return None if repeated else {**cast("dict[str, object]", message), "content": None}

    def _text(self, content: object) -> None:
        text = text_of(content)
        if text:
            text = self._joiner.feed(text)
            self._show(self._marks.feed(text) if self._marks else text)

    def _show(self, text: str) -> None:
        if self._repeated and text:
            text, self._repeated = without_repeated(text, self._repeated)
        if text:
            self._texts.append(text)
            self._out.append(TextDelta(text, tuple(self._logprobs)))
            self._logprobs.clear()

    def _reason_of(self, reason: object) -> FinishReason:
        if self._body is not None and not isinstance(reason, str):
            reason = "stop"  # the body is complete, whatever stands there
        # A call without arguments may be one that was cut off, where the reason's word is not known.
        known, certain = read_reason(reason)
        self._odd_reason = self._body is None and not certain
        self._logprobs.clear()  # of an end token, which shows no text
        return known

    def _end_body(self, body: bytes) -> None:
        """Read a whole body: one completion, or lines of JSON that are chunks."""
        try:
            self._completion(parsed(body))
        except ProtocolError:
            lines = body.splitlines()
            if len(lines) < 2 or not all(line.startswith((b"{", b"[DONE]")) for line in lines if line.strip()):
                raise
            self._body = None
            for line in lines:
                self._event(line, at_end=True)

    def _completion(self, value: Any) -> None:
        if isinstance(value, dict) and not value.get("error") and not isinstance(value.get("choices"), list):
            error = ProtocolError("The server answered with JSON that is no completion; is base_url right?")
            error.server_message = error_in_stream(value, self._sent).server_message
            raise error
        self._any_chunk(value)


def _cut() -> StreamInterrupted:
    return StreamInterrupted("The answer broke off in the middle of an event, so it is not complete.")
