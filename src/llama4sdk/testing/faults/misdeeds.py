"""Faults without a remedy: each ends in one error of the right class, within its deadline."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

import anyio

from llama4sdk.testing.faults import honest
from llama4sdk.testing.faults.honest import delta, event
from llama4sdk.testing.faults.wire import EVENTS, Received, Wire

Act: TypeAlias = Callable[[Wire, Received], Awaitable[None]]

_BEGUN = [
    event(delta({"role": "assistant", "content": ""})),
    event(delta({"content": "Hello"})),
    event(delta({"content": " wor"})),
]
PARTIAL = "Hello wor"
"""The text that comes before a fault in the middle of an answer."""

_STATUSES = (400, 401, 402, 403, 404, 405, 408, 409, 410, 413, 418, 422, 429, 500, 501, 502, 503, 504, 529)


async def _begin(wire: Wire) -> None:
    await wire.head()
    for part in _BEGUN:
        await wire.chunk(part)


def _then(*parts: bytes, end: bool = True) -> Act:
    """Return an act that begins an answer, sends `parts`, and ends the body."""

    async def act(wire: Wire, request: Received) -> None:
        await _begin(wire)
        for part in parts:
            await wire.chunk(part)
        if end:
            await wire.end()

    return act


def _then_chunk(value: Any) -> Act:
    return _then(event(value))


def _status(status: int, body: Any = None, **headers: str) -> Act:
    told = body if body is not None else {"error": {"message": "told to", "type": "misdeed", "code": None}}

    async def act(wire: Wire, request: Received) -> None:
        await wire.answer_json(status, told, **headers)

    return act


def _once(status: int, **headers: str) -> Act:
    """Return an act that fails the first time and behaves from then on."""
    seen: set[str] = set()

    async def act(wire: Wire, request: Received) -> None:
        question = json.dumps(request.json.get("messages"))
        if question not in seen:
            seen.add(question)
            await wire.answer_json(status, {"error": "not now"}, **headers)
            return
        await wire.head()
        for part in honest.events(honest.answer(request.json)):
            await wire.chunk(part)
        await wire.end()

    return act


async def _reset_before_headers(wire: Wire, request: Received) -> None:
    await wire.reset()


async def _close_before_headers(wire: Wire, request: Received) -> None:
    await wire.close()


async def _reset_in_headers(wire: Wire, request: Received) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/ev")
    await anyio.sleep(0.02)
    await wire.reset()


async def _reset_after_headers(wire: Wire, request: Received) -> None:
    await wire.head()
    await anyio.sleep(0.02)
    await wire.reset()


async def _reset_mid_stream(wire: Wire, request: Received) -> None:
    await _begin(wire)
    await anyio.sleep(0.05)  # else the reset overtakes what was sent
    await wire.reset()


async def _reset_mid_event(wire: Wire, request: Received) -> None:
    await _begin(wire)
    await wire.chunk(b'data: {"choices": [{"del')
    await anyio.sleep(0.05)
    await wire.reset()


async def _close_mid_stream(wire: Wire, request: Received) -> None:
    await _begin(wire)
    await wire.close()


async def _silence(wire: Wire, request: Received) -> None:
    await wire.hang()


async def _silence_after_headers(wire: Wire, request: Received) -> None:
    await wire.head()
    await wire.hang()


async def _stall(wire: Wire, request: Received) -> None:
    await _begin(wire)
    await wire.hang()


async def _slow_headers(wire: Wire, request: Received) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(10_000):
        await wire.send(b"X-Slow-%d: 1\r\n" % number)
        await anyio.sleep(0.02)


async def _endless_headers(wire: Wire, request: Received) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        await wire.send(b"x" * 65536)


async def _endless_comments(wire: Wire, request: Received) -> None:
    await _begin(wire)
    while True:
        await wire.chunk(b": still here\n\n")
        await anyio.sleep(0.01)


async def _comments_only(wire: Wire, request: Received) -> None:
    await wire.head()
    while True:
        await wire.chunk(b": still here\n\n")
        await anyio.sleep(0.01)


async def _endless_deltas(wire: Wire, request: Received) -> None:
    await wire.head()
    while True:
        await wire.chunk(event(delta({"content": "more and more "})) * 100)


async def _huge_line(wire: Wire, request: Received) -> None:
    await _begin(wire)
    await wire.chunk(b'data: {"choices": [{"delta": {"content": "')
    for _ in range(1600):
        await wire.chunk(b"x" * 65536)  # 100 MB in all
    await wire.chunk(b'"}}]}\n\n')
    await wire.end()


async def _huge_body(wire: Wire, request: Received) -> None:
    await wire.head(200, "application/json")
    await wire.chunk(b'{"choices": [{"message": {"content": "')
    for _ in range(1600):
        await wire.chunk(b"x" * 65536)
    await wire.end()


async def _html(wire: Wire, request: Received) -> None:
    await wire.answer(200, b"<!DOCTYPE html><html><body>Welcome</body></html>", "text/html")


async def _html_502(wire: Wire, request: Received) -> None:
    await wire.answer(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", "text/html")


async def _gzip_bomb(wire: Wire, request: Received) -> None:
    # Members of gzip may follow one another: 100 MB out of a compressed megabyte, told in 100 kB.
    bomb = gzip.compress(b"data: " + b" " * 1_000_000) * 100
    await wire.answer(200, bomb, EVENTS, Content_Encoding="gzip")


async def _brotli(wire: Wire, request: Received) -> None:
    await wire.answer(200, b"\x00" * 64, EVENTS, Content_Encoding="br")


async def _redirect(wire: Wire, request: Received) -> None:
    elsewhere = request.headers.get("x-elsewhere", "http://127.0.0.1:9/v1/chat/completions")
    await wire.answer(307, b"", Location=elsewhere)


async def _echo(wire: Wire, request: Received) -> None:
    """Refuse, and repeat all that was sent in every field of the error."""
    said = f"{dict(request.headers)} {request.body.decode('utf-8', 'replace')}"
    code = request.headers.get("authorization", "").removeprefix("Bearer ")
    await wire.answer_json(400, {"error": {"message": said, "type": code, "param": said, "code": code}})


async def _echo_in_stream(wire: Wire, request: Received) -> None:
    await _begin(wire)
    said = f"{dict(request.headers)} {request.body.decode('utf-8', 'replace')}"
    await wire.chunk(event({"error": {"message": said, "code": said}}))
    await wire.end()


async def _garbage(wire: Wire, request: Received) -> None:
    await wire.send(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
    await wire.close()


async def _bad_chunk_size(wire: Wire, request: Received) -> None:
    await _begin(wire)
    await wire.send(b"zzzz\r\nnot a chunk\r\n")
    await wire.close()


async def _slow_error(wire: Wire, request: Received) -> None:
    await wire.head(500, "application/json")
    await wire.hang()


async def _no_content(wire: Wire, request: Received) -> None:
    await wire.send(b"HTTP/1.1 204 No Content\r\n\r\n")


def _raw_json(text: bytes) -> Act:
    return _then(b"data: " + text + b"\n\n")


def _mistyped(values: Iterable[tuple[str, Any]]) -> dict[str, Act]:
    return {f"mistyped_{name}": _then_chunk(value) for name, value in values}


_OVERFLOW = honest.overflow(30_000)

MISDEEDS: Mapping[str, Act] = {
    **{f"status_{status}": _status(status) for status in _STATUSES},
    **_mistyped(
        (
            ("event", [1, 2]),
            ("choices", {"choices": {}}),
            ("choice", {"choices": ["text"]}),
            ("delta", {"choices": [{"delta": "text"}]}),
            ("content", delta({"content": 5})),
            ("content_list", delta({"content": ["a"]})),
            ("finish_reason", {"choices": [{"delta": {}, "finish_reason": 7}]}),
            ("usage", {"choices": [], "usage": "many"}),
            ("usage_negative", {"choices": [], "usage": {"prompt_tokens": -1}}),
            ("usage_float", {"choices": [], "usage": {"prompt_tokens": 1.5}}),
            ("tool_calls", delta({"tool_calls": "f()"})),
            ("tool_call", delta({"tool_calls": ["f()"]})),
            ("tool_name", delta({"tool_calls": [{"index": 0, "function": {"name": 1}}]})),
            ("tool_arguments", delta({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": 3}}]})),
            ("logprobs", {"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [{"token": 1}]}}]}),
        )
    ),
    "abort_reason": _then_chunk(delta({}, "abort")),
    "bad_chunk_size": _bad_chunk_size,
    "brotli": _brotli,
    "auto_tool_choice": _status(
        400,
        {
            "object": "error",
            "message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            "type": "BadRequestError",
            "code": 400,
        },
    ),
    "call_without_name": _then(
        event(delta({"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": '{"city": "Paris"}'}}]})),
        event(delta({}, "tool_calls")),
    ),
    "cut_done": _then(b"data: [DO"),
    "cut_event": _then(b'data: {"choices": [{"del'),
    "image_too_large": _status(400, {"error": {"message": "The image size exceeds the limit of 20 MB."}}),
    "max_tokens_overflow": _status(
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens "
            "(568 in the messages, 6048 in the completion). Please reduce the length of the messages or completion.",
            "type": "BadRequestError",
            "code": 400,
        },
    ),
    "overflow_fields": _status(
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 9000,
                "n_ctx": 8192,
            }
        },
    ),
    "retry_after_ms": _status(429, Retry_After_Ms="20", Retry_After="50"),
    "should_not_retry": _status(503, X_Should_Retry="false"),
    "should_retry": _status(400, X_Should_Retry="true"),
    "clean_end_without_finish": _then(),
    "close_before_headers": _close_before_headers,
    "close_mid_stream": _close_mid_stream,
    "comments_only": _comments_only,
    "context_overflow": _status(400, _OVERFLOW),
    "deep_json": _raw_json(b"[" * 100_000),
    "done_without_finish": _then(b"data: [DONE]\n\n"),
    "echo": _echo,
    "echo_in_stream": _echo_in_stream,
    "empty_body": _then(),
    "endless_comments": _endless_comments,
    "endless_deltas": _endless_deltas,
    "endless_headers": _endless_headers,
    "error_event_field": _then(b'error: {"code": 500, "message": "boom", "type": "server_error"}\n\n'),
    "error_event_with_words": _then(b'event: error\ndata: {"message": "boom"}\n\n', b"data: [DONE]\n\n"),
    "error_in_choice": _then_chunk({"choices": [{"index": 0, "delta": {}, "error": {"code": 502, "message": "boom"}}]}),
    "error_in_list": _then_chunk([{"error": {"code": 503, "message": "boom", "status": "UNAVAILABLE"}}]),
    "error_flat_in_stream": _then_chunk({"object": "error", "message": "boom", "code": 500}),
    "error_in_stream": _then_chunk({"error": {"message": "boom", "type": "server_error", "code": 500}}),
    "error_string_in_stream": _then_chunk({"error": "boom"}),
    "error_then_done": _then(event({"error": {"message": "boom"}}), b"data: [DONE]\n\n"),
    "garbage": _garbage,
    "gzip_bomb": _gzip_bomb,
    "html_200": _html,
    "html_502": _html_502,
    "huge_body": _huge_body,
    "huge_integer": _raw_json(b'{"choices": [], "created": ' + b"9" * 5000 + b"}"),
    "huge_line": _huge_line,
    "invalid_utf8": _raw_json(b'{"choices": [{"delta": {"content": "\xff\xfe"}}]}'),
    "json_error_200": _status(200, {"error": {"message": "boom", "type": "server_error", "code": 503}}),
    "json_other_200": _status(200, {"status": "ok"}),
    "nan": _raw_json(b'{"choices": [], "score": NaN}'),
    "no_content": _no_content,
    "once_429": _once(429, Retry_After="0"),
    "once_500": _once(500),
    "once_503": _once(503),
    "problem_json": _status(403, {"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "no"}),
    "redirect": _redirect,
    "reset_after_headers": _reset_after_headers,
    "reset_before_headers": _reset_before_headers,
    "reset_in_headers": _reset_in_headers,
    "reset_mid_event": _reset_mid_event,
    "reset_mid_stream": _reset_mid_stream,
    "retry_after_1": _status(429, Retry_After="1"),
    "retry_after_date": _status(429, Retry_After="Wed, 21 Oct 2099 07:28:00 GMT"),
    "retry_after_huge": _status(429, Retry_After="1e99"),
    "retry_after_nan": _status(429, Retry_After="nan"),
    "retry_after_negative": _status(429, Retry_After="-5"),
    "retry_after_past": _status(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "silence": _silence,
    "silence_after_headers": _silence_after_headers,
    "slow_error": _slow_error,
    "slow_headers": _slow_headers,
    "stall": _stall,
    "too_many_images": _status(400, {"error": {"message": "At most 5 image(s) may be provided in one request."}}),
    "trailing_json": _raw_json(b'{"choices": []} oops'),
    "truncated_json": _raw_json(b'{"choices": [{"delta": {"cont'),
}
