"""Bytes into events, wherever they are cut: the pure core of the remote backend."""

from __future__ import annotations

import json
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama4_http.answer import AnswerReader
from llama4_http.errors import Sent
from llama4_http.sse import SseParser
from llama4sdk.errors import LlamaError, ProtocolError, ServerFault, StreamInterrupted
from llama4sdk.events import Done, Event, Progress, TextDelta, TokenLogprob, ToolCallReady
from llama4sdk.testing.faults import honest

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), max_size=6)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def read(*chunks: bytes, **options: object) -> tuple[list[Event], LlamaError | None]:
    events: deque[Event] = deque()
    reader = AnswerReader(Sent("r"), events, **options)  # type: ignore[arg-type]
    try:
        for chunk in chunks:
            reader.feed(chunk)
        reader.end()
    except LlamaError as error:
        return list(events), error
    return list(events), None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[low:high] for low, high in pairwise(edges)]


def chat(texts: list[str], end: bytes = b"\n", *, ascii_only: bool = True) -> bytes:
    chunks = [honest.delta({"content": text}) for text in texts] + [honest.delta({}, "stop")]
    lines = [b"data: " + json.dumps(chunk, ensure_ascii=ascii_only).encode() for chunk in chunks]
    return (end * 2).join([*lines, b": ping", b"data: [DONE]", b""])


@given(TEXTS, ENDS, st.booleans(), st.lists(st.integers(0, 5000), max_size=30), st.booleans())
def test_the_events_are_the_same_wherever_the_bytes_are_cut(
    texts: list[str], end: bytes, ascii_only: bool, places: list[int], bom: bool
) -> None:
    data = (b"\xef\xbb\xbf" if bom else b"") + chat(texts, end, ascii_only=ascii_only)
    events, error = read(*cut(data, places))
    assert error is None
    assert events == read(data)[0]
    assert [event.text for event in events if isinstance(event, TextDelta)] == texts
    assert events[-1] == Done("stop")


@given(TEXTS, ENDS)
def test_one_byte_at_a_time_gives_the_same_events(texts: list[str], end: bytes) -> None:
    data = chat(texts, end, ascii_only=False)
    assert read(*(data[place : place + 1] for place in range(len(data)))) == read(data)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_end_in_an_error_or_in_a_finish_reason_and_cuts_change_nothing(
    data: bytes, places: list[int]
) -> None:
    events, error = read(*cut(data, places))
    assert (error is None) == any(isinstance(event, Done) for event in events)
    whole, whole_error = read(data)
    assert (events, type(error)) == (whole, type(whole_error))


@given(TEXTS, st.integers(0, 5000))
def test_a_stream_cut_short_is_never_a_success(texts: list[str], place: int) -> None:
    data = chat(texts)
    short = data[: place % max(1, data.index(b'"finish_reason": "stop"'))]
    events, error = read(short)
    assert isinstance(error, StreamInterrupted | ProtocolError)
    assert not any(isinstance(event, Done) for event in events)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["choices", "delta", "content", "index", "finish_reason", "usage", "error",
                                         "tool_calls", "function", "name", "arguments", "logprobs", "text", "message"]),
                        inner, max_size=4), max_leaves=12))  # fmt: skip
def test_fault_14_json_of_any_shape_is_read_or_refused(value: object) -> None:
    _, error = read(honest.event(value), honest.event(honest.delta({}, "stop")))
    assert error is None or isinstance(error, LlamaError)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_the_parser_of_events_does_not_mind_cuts(data: bytes, places: list[int]) -> None:
    def parse(*chunks: bytes) -> list[bytes]:
        parser = SseParser()
        return [event for chunk in chunks for event in parser.feed(chunk)] + parser.close()

    assert parse(*cut(data, places)) == parse(data)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_cr_and_lf_end_a_line(separator: str) -> None:
    assert SseParser().feed(f"data: a{separator}b\n\n".encode()) == [f"a{separator}b".encode()]


def test_fault_10_a_line_without_an_end_is_cut_off_at_the_cap() -> None:
    parser = SseParser(max_event=1000)
    with pytest.raises(ProtocolError, match="1,000"):
        for _ in range(100):
            parser.feed(b"data: " + b"x" * 100)


def test_many_data_lines_count_against_the_cap_together() -> None:
    parser = SseParser(max_event=1000)
    with pytest.raises(ProtocolError):
        for _ in range(100):
            parser.feed(b"data: " + b"x" * 100 + b"\n")


def test_fault_12_a_character_cut_across_reads_is_whole() -> None:
    data = chat(["👋"], ascii_only=False)
    place = data.index("👋".encode())
    events, error = read(data[: place + 2], data[place + 2 :])
    assert error is None
    assert events[0] == TextDelta("👋")


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": "\xff"}', b'{"a"'],
    ids=["deep", "integer", "nan", "infinity", "utf8", "cut"],
)
def test_fault_13_hostile_json_breaks_the_protocol(data: bytes) -> None:
    assert isinstance(read(b"data: " + data + b"\n\n")[1], ProtocolError)


def test_logprobs_stay_with_the_text_that_shows_them() -> None:
    entry = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}
    hidden = {"choices": [{"index": 0, "delta": {"content": ""}, "logprobs": {"content": [entry]}}]}
    shown = {"choices": [{"index": 0, "delta": {"content": "é"}, "logprobs": {"content": [entry]}}]}
    events, error = read(honest.event(hidden), honest.event(shown), honest.event(honest.delta({}, "stop")))
    token = TokenLogprob("a", -0.5, top=(TokenLogprob("a", -0.5),))
    assert error is None
    assert events[0] == TextDelta("é", (token, token))


def test_plain_completions_are_read_with_their_own_logprobs() -> None:
    logprobs = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0, "y": -2.0}]}
    chunk = {"choices": [{"index": 0, "text": "x", "logprobs": logprobs, "finish_reason": "length"}]}
    events, _ = read(honest.event(chunk))
    top = (TokenLogprob("x", -1.0), TokenLogprob("y", -2.0))
    assert events == [TextDelta("x", (TokenLogprob("x", -1.0, top=top),)), Done("length")]


def test_progress_of_the_prompt_is_an_event() -> None:
    chunk = {"choices": [], "prompt_progress": {"processed": 5, "total": 9}}
    assert read(honest.event(chunk))[0] == [Progress("prefill", 5, 9, "tokens")]


def test_a_call_cut_by_the_token_limit_is_left_out() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x": '}}
    events, error = read(honest.event(honest.delta({"tool_calls": [call]})), honest.event(honest.delta({}, "length")))
    assert error is None
    assert not any(isinstance(event, ToolCallReady) for event in events)
    assert events[-1] == Done("length")


def test_other_choices_than_the_first_are_not_mixed_in() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}}]}
    assert read(honest.event(other))[0] == [TextDelta("yes")]


@pytest.mark.parametrize("reason", ["repetition", "eos_found", "STOP", " Stop ", "end"])
def test_a_reason_of_any_name_ends_a_stream_as_it_ends_a_body(reason: object) -> None:
    streamed = read(
        honest.event(honest.delta({"content": "yes"})),
        honest.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}),
    )
    whole = {"choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": reason}]}
    for events, error in (streamed, read(json.dumps(whole).encode())):
        assert error is None
        assert events == [TextDelta("yes"), Done("stop")]


@pytest.mark.parametrize("reason", ["", "null", "None", None, False, 0])
def test_a_reason_that_is_none_ends_nothing(reason: object) -> None:
    event = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": reason}]}
    events, error = read(honest.event(event), honest.event(event), honest.event(honest.delta({}, "stop")))
    assert error is None
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["a", "a"]
    assert isinstance(read(honest.event(event))[1], StreamInterrupted)


@pytest.mark.parametrize(
    "reason", ["abort", "Cancelled", "canceled", "error", "timeout", "insufficient_system_resource"]
)
def test_a_reason_that_tells_of_a_failure_is_never_a_success(reason: str) -> None:
    events, error = read(honest.event(honest.delta({"content": "half"})), honest.event(honest.delta({}, reason)))
    assert isinstance(error, ServerFault)
    assert not any(isinstance(event, Done) for event in events)


@pytest.mark.parametrize("arguments", ["", '{"x": '])
def test_a_call_that_may_be_cut_off_is_never_run_for_a_reason_of_unknown_name(arguments: str) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": arguments}}
    events, error = read(honest.event(honest.delta({"tool_calls": [call]})), honest.event(honest.delta({}, "halted")))
    assert error is None
    assert not any(isinstance(event, ToolCallReady) for event in events)


def test_a_whole_call_is_run_for_a_reason_of_unknown_name() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}}
    events, _ = read(honest.event(honest.delta({"tool_calls": [call]})), honest.event(honest.delta({}, "called")))
    assert [event.call.arguments for event in events if isinstance(event, ToolCallReady)] == [{"x": 1}]
    assert events[-1] == Done("tool_calls")
