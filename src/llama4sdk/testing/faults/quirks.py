"""Oddities of real servers that make no difference: the answer stays the well-behaved one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import anyio

from llama4sdk.testing.faults import honest
from llama4sdk.testing.faults.honest import Answer, counts, delta, event
from llama4sdk.testing.faults.wire import EVENTS, Received, Wire

Quirk: TypeAlias = Callable[[Wire, Received], Awaitable[None]]
Parts: TypeAlias = Callable[[Answer], Iterable[bytes]]


def _streamed(parts: Parts, content_type: str | None = EVENTS) -> Quirk:
    async def act(wire: Wire, request: Received) -> None:
        await wire.head(200, content_type)
        for part in parts(honest.answer(request.json)):
            await wire.chunk(part)
        await wire.end()

    return act


def _bytewise(given: Answer) -> Iterator[bytes]:
    for part in honest.events(given):
        yield from (part[place : place + 1] for place in range(len(part)))


def _unescaped(given: Answer) -> Iterator[bytes]:
    # Characters as they are instead of \\u escapes, cut in the middle.
    for word in given.words:
        data = f"data: {json.dumps(delta({'content': word}), ensure_ascii=False)}\n\n".encode()
        cut = next((place + 1 for place, byte in enumerate(data) if byte >= 0x80), len(data) // 2)
        yield data[:cut]
        yield data[cut:]
    yield from _ending(given)


def _ending(given: Answer) -> Iterator[bytes]:
    yield event(delta({}, given.reason))
    yield event(counts(given))
    yield b"data: [DONE]\n\n"


def _words(given: Answer, form: Callable[[str], Iterable[bytes]]) -> Iterator[bytes]:
    for word in given.words:
        yield from form(word)
    yield from _ending(given)


def _replaced(old: bytes, new: bytes) -> Parts:
    return lambda given: (part.replace(old, new) for part in honest.events(given))


def _several_lines(given: Answer) -> Iterator[bytes]:
    for word in given.words:
        lines = json.dumps(delta({"content": word}), indent=1).splitlines()
        yield "".join(f"data: {line}\n" for line in lines).encode() + b"\n"
    yield from _ending(given)


def _commented(given: Answer) -> Iterator[bytes]:
    for part in honest.events(given):
        yield b": keep-alive\n\n"
        yield b"event: message\nid: 1\nretry: 10\n" + part


def _odd_deltas(given: Answer) -> Iterator[bytes]:
    yield event({"choices": [], "id": "x"})
    yield event(delta({"role": "assistant"}))
    yield event(delta(None))
    yield event(delta({}))
    yield event(delta({"content": None}))
    yield event(delta({"content": ""}))
    yield from _words(given, lambda word: [event({"choices": [{"delta": {"content": word}}]})])


def _usage_each(given: Answer) -> Iterator[bytes]:
    for number, word in enumerate(given.words, 1):
        usage = {"prompt_tokens": given.prompt_tokens, "completion_tokens": number, "total_tokens": 0}
        yield event(delta({"content": word}, usage=usage))
    yield from _ending(given)


def _usage_twice(given: Answer) -> Iterator[bytes]:
    for part in honest.events(given):
        if part == b"data: [DONE]\n\n":
            yield event(counts(given))
        yield part


def _without(*unwanted: bytes) -> Parts:
    return lambda given: (part for part in honest.events(given) if not any(word in part for word in unwanted))


def _unterminated(given: Answer) -> Iterator[bytes]:
    *parts, last = list(_without(b"[DONE]")(given))
    yield from parts
    yield last.rstrip(b"\n")


def _at_once(given: Answer) -> Iterator[bytes]:
    yield b"".join(honest.events(given))


def _calls(*deltas: Mapping[str, Any], reason: str = "tool_calls") -> Quirk:
    def parts(given: Answer) -> Iterator[bytes]:
        for one in deltas:
            yield event(delta(one))
        yield event(delta({}, reason))
        yield event(counts(given))
        yield b"data: [DONE]\n\n"

    return _streamed(parts)


def _call(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    return {**fields, "function": {"name": name, "arguments": arguments}}


async def _whole_body(wire: Wire, request: Received) -> None:
    await wire.answer_json(200, honest.whole(honest.answer(request.json)))


async def _held_open(wire: Wire, request: Received) -> None:
    """Send everything but the end of the body, and keep the connection."""
    await wire.head()
    for part in honest.events(honest.answer(request.json)):
        await wire.chunk(part)
    await wire.hang()


async def _reset_after_finish(wire: Wire, request: Received) -> None:
    await wire.head()
    for part in honest.events(honest.answer(request.json), usage=False):
        if b"[DONE]" not in part:
            await wire.chunk(part)
    await anyio.sleep(0.05)
    await wire.reset()


async def _silent_after_finish(wire: Wire, request: Received) -> None:
    await wire.head()
    for part in honest.events(honest.answer(request.json), usage=False):
        if b"[DONE]" not in part:
            await wire.chunk(part)
    await wire.hang()


def _finished_then(*parts: bytes) -> Parts:
    """Return the well-behaved answer up to its finish reason, then `parts`."""
    return lambda given: [*_without(b"[DONE]", b'"usage"')(given), *parts]


def _passed_over(given: Answer) -> Iterator[bytes]:
    strangers: tuple[Any, ...] = (
        {},
        {"id": "x"},
        {"choices": None},
        {"type": "ping"},
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
    )
    for part in honest.events(given):
        yield from (event(stranger) for stranger in strangers)
        yield part


def _odd_counts(form: Callable[[int], Any]) -> Parts:
    def parts(given: Answer) -> Iterator[bytes]:
        usage = {name: form(count) for name, count in given.usage.items()}
        for part in honest.events(given):
            yield event({**delta(None), "choices": [], "usage": usage}) if b'"usage"' in part else part

    return parts


def _odd_logprobs(given: Answer) -> Iterator[bytes]:
    values = ("null", "-Infinity", "-9999.0", "NaN", "-1e308", "12" * 200)
    for word, value in zip(given.words, values, strict=False):
        text = json.dumps(word)
        token = f'{{"token": {text}, "logprob": {value}, "top_logprobs": [{{"token": {text}, "logprob": {value}}}]}}'
        choice = f'{{"index": 0, "delta": {{"content": {text}}}, "logprobs": {{"content": [{token}]}}}}'
        yield f'data: {{"choices": [{choice}]}}\n\n'.encode()
    yield from (event(delta({"content": word})) for word in given.words[len(values) :])
    yield from _ending(given)


def _split_pairs(given: Answer) -> Iterator[bytes]:
    """Cut the text into UTF-16 units, as servers do that count characters so."""
    units = given.text.encode("utf-16-le")
    for place in range(0, len(units), 2):
        yield event(delta({"content": units[place : place + 2].decode("utf-16-le", "surrogatepass")}))
    yield from _ending(given)


def _called(*functions: Mapping[str, Any]) -> Quirk:
    """Return a server that sends these calls in a body that is not streamed."""

    async def act(wire: Wire, request: Received) -> None:
        body = honest.whole(honest.answer(request.json))
        body["choices"][0] |= {
            "message": {"role": "assistant", "content": None, "tool_calls": list(functions)},
            "finish_reason": "tool_calls",
        }
        await wire.answer_json(200, body)

    return act


def _body_with_reason(reason: str | None) -> Quirk:
    async def act(wire: Wire, request: Received) -> None:
        body = honest.whole(honest.answer(request.json))
        body["choices"][0]["finish_reason"] = reason
        await wire.answer_json(200, body)

    return act


def _lines_of_json(given: Answer) -> Iterator[bytes]:
    return (part.removeprefix(b"data: ").rstrip() + b"\n" for part in honest.events(given))


def _pinged(given: Answer) -> Iterator[bytes]:
    for part in honest.events(given):
        yield b"data: ping\n\n"
        yield part


def _counts_in_choice(given: Answer) -> Iterator[bytes]:
    yield from (event(delta({"content": word})) for word in given.words)
    yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": given.reason, "usage": given.usage}]})
    yield b"data: [DONE]\n\n"


def _repeated_at_end(given: Answer) -> Iterator[bytes]:
    """Send the whole message once more with the finish reason, beside an empty delta."""
    yield from (event(delta({"content": word})) for word in given.words)
    choice: dict[str, Any] = honest.whole(given)["choices"][0]
    yield event({"choices": [{**choice, "delta": {}}], "usage": given.usage})
    yield b"data: [DONE]\n\n"


def _tired(given: Answer) -> Iterator[bytes]:
    return honest.events(replace(given, reason="tired"))


async def _surplus_response(wire: Wire, request: Received) -> None:
    """Send a second answer that was not asked for behind the first, in the same write."""
    events = b"".join(honest.events(honest.answer(request.json)))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    stray = event(delta({"content": "stray"}, "stop"))
    await wire.send(head % len(events) + events + head % len(stray) + stray)


_CITY = '{"city": "Paris"}'
_F = _call("f", _CITY, index=0, id="a")

QUIRKS: Mapping[str, Quirk] = {
    "arguments_as_object": _calls({"tool_calls": [_call("f", {"city": "Paris"}, index=0, id="a")]}),
    "arguments_as_nested_string": _calls({"tool_calls": [_call("f", json.dumps(_CITY), index=0, id="a")]}),
    "arguments_repeated": _calls(
        *({"tool_calls": [_call("f", _CITY[:end], index=0, id="a")]} for end in (4, 9, None)),
    ),
    "arguments_after_empty_object": _calls(
        {"tool_calls": [_call("f", "{}", index=0, id="a")]}, {"tool_calls": [_call(None, _CITY, index=0)]}
    ),
    "at_once": _streamed(_at_once),
    "body_with_unknown_reason": _body_with_reason("tired"),
    "body_without_reason": _body_with_reason(None),
    "bom": _streamed(lambda given: [b"\xef\xbb\xbf", *honest.events(given)]),
    "bytewise": _streamed(_bytewise),
    "call_without_index": _calls(
        {"tool_calls": [_call("f", _CITY[:4], id="a")]}, {"tool_calls": [_call(None, _CITY[4:])]}
    ),
    "call_name_after_id": _calls(
        {"tool_calls": [{"index": 0, "id": "a"}]}, {"tool_calls": [_call("f", _CITY, index=0)]}
    ),
    "call_name_in_every_delta": _calls(
        *({"tool_calls": [_call("f", part, index=0, id="a")]} for part in ("", _CITY[:4], _CITY[4:]))
    ),
    "call_fields_beside_id": _calls({"tool_calls": [{"index": 0, "id": "a", "name": "f", "arguments": _CITY}]}),
    "call_index_as_string": _calls(
        {"tool_calls": [_call("f", _CITY[:4], index="0", id="a")]}, {"tool_calls": [_call(None, _CITY[4:], index=0)]}
    ),
    "call_sent_again": _calls({"tool_calls": [_F]}, {"tool_calls": [_F]}),
    "calls_as_object": _calls({"tool_calls": {"0": _F}}),
    "calls_end_with_stop": _calls({"tool_calls": [_F]}, reason="stop"),
    "calls_in_one_chunk": _calls({"tool_calls": [_F, _call("g", "{}", index=1, id="b")]}),
    "calls_with_one_index": _calls({"tool_calls": [_F, _call("g", "{}", index=0, id="b")]}),
    "calls_with_one_id": _calls({"tool_calls": [_F]}, {"tool_calls": [_call("g", "{}", index=1, id="a")]}),
    "calls_with_one_id_in_body": _called({**_F, "index": None}, _call("g", "{}", id="a")),
    "calls_without_ids": _calls(
        {"tool_calls": [_call("f", _CITY, index=0)]}, {"tool_calls": [_call("g", "{}", index=0)]}
    ),
    "comments": _streamed(_commented),
    "counts_as_floats": _streamed(_odd_counts(float)),
    "counts_in_choice": _streamed(_counts_in_choice),
    "counts_as_strings": _streamed(_odd_counts(str)),
    "cut_after_finish": _streamed(_finished_then(b"data: [DO")),
    "cr": _streamed(_replaced(b"\n", b"\r")),
    "crlf": _streamed(_replaced(b"\n", b"\r\n")),
    "cut_characters": _streamed(_unescaped),
    "held_open_after_done": _held_open,
    "json_body": _whole_body,
    "json_lines": _streamed(_lines_of_json),
    "logprobs_odd": _streamed(_odd_logprobs),
    "marks_around_calls": _calls(
        {"content": "<|python_start|>"}, {"tool_calls": [_F]}, {"content": "<|python_end|>"}, {"content": "<|eom|>"}
    ),
    "message_repeated_at_end": _streamed(_repeated_at_end),
    "no_content_type": _streamed(honest.events, None),
    "no_done": _streamed(_without(b"[DONE]")),
    "no_space_after_colon": _streamed(_replaced(b"data: ", b"data:")),
    "no_usage": _streamed(_without(b'"usage"')),
    "no_blank_lines": _streamed(_replaced(b"\n\n", b"\n")),
    "odd_deltas": _streamed(_odd_deltas),
    "pings_as_text": _streamed(_pinged),
    "reset_after_finish": _reset_after_finish,
    "reason_tool_calls_without_call": _streamed(
        _replaced(b'"finish_reason": "stop"', b'"finish_reason": "tool_calls"')
    ),
    "several_data_lines": _streamed(_several_lines),
    "silent_after_finish": _silent_after_finish,
    "split_surrogates": _streamed(_split_pairs),
    "strange_events": _streamed(_passed_over),
    "surplus_response": _surplus_response,
    "trouble_after_finish": _streamed(
        _finished_then(event({"choices": [], "usage": "many"}), event({"error": {"message": "late"}}))
    ),
    "unknown_finish_reason": _streamed(_tired),
    "unterminated_last_event": _streamed(_unterminated),
    "usage_on_every_chunk": _streamed(_usage_each),
    "usage_twice": _streamed(_usage_twice),
    "wrong_content_type": _streamed(honest.events, "text/html"),
}
