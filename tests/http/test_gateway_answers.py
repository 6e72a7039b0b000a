"""What gateways before a server make of its answers: errors, reasons, counts and calls in their own forms."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest

from http_real_servers import F, calling, delta
from llama4_http.answer import AnswerReader
from llama4_http.errors import Sent, error_for_status
from llama4_http.overflow import Overflow, overflow_of
from llama4sdk.errors import ContextOverflow, LlamaError, Overloaded, ProtocolError, ServerFault, StreamInterrupted
from llama4sdk.events import Done, Event, TextDelta, ToolCallReady
from llama4sdk.reply import Usage
from llama4sdk.testing.faults import honest

HI = honest.delta({"content": "Hi"})


def read(*chunks: Any, data: bytes = b"") -> tuple[list[Event], LlamaError | None]:
    out: deque[Event] = deque()
    reader = AnswerReader(Sent("r"), out, tools=(F,))
    try:
        reader.feed(b"".join(honest.event(chunk) for chunk in chunks) + data)
        reader.end()
    except LlamaError as error:
        return list(out), error
    return list(out), None


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def ended(*chunks: Any) -> Done:
    events, error = read(*chunks)
    assert error is None
    assert isinstance(events[-1], Done)
    return events[-1]


@pytest.mark.parametrize(("reason", "ours"), [
    ("max_new_tokens", "length"), ("model_context_window_exceeded", "length"), ("incomplete", "length"),
    ({"type": "length", "length": 16}, "length"), ({"type": "stop", "matched": 128001}, "stop"),
    ("RECITATION", "content_filter"), ("refusal", "content_filter"), ("guardrail_intervened", "content_filter"),
    ("tired", "stop"),
])  # fmt: skip
def test_a_finish_reason_is_read_by_its_meaning(reason: object, ours: str) -> None:
    assert ended(HI, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}).finish_reason == ours


@pytest.mark.parametrize("reason", ["network_error", "engine_timeout", "preempted", "load", "rate_limited"])
def test_a_reason_that_tells_of_a_failure_is_no_end_of_an_answer(reason: str) -> None:
    assert isinstance(read(HI, honest.delta({}, reason))[1], ServerFault)


@pytest.mark.parametrize(("told", "kind"), [
    ({"error": {"message": "boom", "code": "429"}}, Overloaded),
    ({"error": {"message": "boom", "status": 503}}, Overloaded),
    ({"error": {"message": "boom", "type": "rate_limit_exceeded"}}, Overloaded),
    ({"type": "error", "message": "boom"}, ServerFault),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}, Overloaded),
    ({"errors": [{"message": "boom"}]}, ServerFault),
    ({"success": False, "msg": "boom"}, ServerFault),
    ({"status_code": 502, "message": "boom"}, ServerFault),
    ({"message": "boom"}, ServerFault),
    ({"detail": "boom"}, ServerFault),
    ([{"error": {"code": 503, "message": "boom"}}], Overloaded),
    ({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"message": "boom"}}]}, ServerFault),
])  # fmt: skip
def test_an_error_in_any_form_inside_a_stream_keeps_its_words(told: Any, kind: type[LlamaError]) -> None:
    events, error = read(HI, told, data=b"data: [DONE]\n\n")
    assert type(error) is kind
    assert error is not None
    assert error.server_message == "boom"
    assert "boom" not in str(error)
    assert text_of(events) == "Hi"


@pytest.mark.parametrize("told", [{"message": "warming up"}, {"status": "ok", "detail": "queued"}, {"error": {}}])
def test_words_that_an_answer_follows_are_no_error(told: Any) -> None:
    assert ended(told, HI, told, honest.delta({}, "stop"), told).finish_reason == "stop"


@pytest.mark.parametrize(("text", "kind"), [(b"ping", StreamInterrupted), (b"upstream error: boom", ServerFault)])
def test_plain_text_in_a_stream_is_passed_over_unless_it_is_the_last_that_is_told(
    text: bytes, kind: type[LlamaError]
) -> None:
    data = b"data: " + text + b"\n\n"
    assert type(read(HI, data=data)[1]) is kind
    assert read(HI, honest.delta({}, "stop"), data=data)[1] is None


@pytest.mark.parametrize("usage", [
    {"usage": {"input_tokens": 5, "output_tokens": 2}},
    {"usage": {"prompt_tokens": 5, "total_tokens": 7}},
    {"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": "none"}}},
    {"x_groq": {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}},
])  # fmt: skip
def test_token_counts_are_found_where_servers_put_them(usage: dict[str, Any]) -> None:
    assert ended(HI, honest.delta({}, "stop", **usage)).usage == Usage(5, 2)


def test_counts_of_nothing_do_not_replace_counts() -> None:
    counted = honest.delta({"content": "Hi"}, usage={"prompt_tokens": 5, "completion_tokens": 1})
    nothing = honest.delta({}, "stop", usage={"prompt_tokens": 0, "completion_tokens": 0})
    assert ended(counted, nothing).usage == Usage(5, 1)


@pytest.mark.parametrize("chunks", [
    [honest.delta({"content": {"type": "text", "text": "Hi"}})],
    [honest.delta({"content": [None, {"type": "reasoning", "text": "hm"}, {"text": "Hi"}]})],
    [{"choices": [{"index": "0", "text": "", "delta": {"content": "Hi"}}]}],
    [{"choices": [{"index": 0, "message": {"content": part}, "delta": None}]} for part in "Hi"],
    [{"choices": [{"index": 0, "delta": {"content": "Hi"}, "message": {"content": "Hi"}}]}],
])  # fmt: skip
def test_text_comes_once_in_whichever_field_it_stands(chunks: list[Any]) -> None:
    end = {"choices": [{"index": 0, "delta": {}, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    chunks = [*chunks, honest.delta({}, "stop") if "message" in chunks[0]["choices"][0] else end]
    events, error = read(*chunks)
    assert error is None
    assert text_of(events) == "Hi"


def test_a_last_message_adds_the_calls_that_no_delta_had() -> None:
    message = {"content": "Hi", "tool_calls": [delta("f", '{"city": "A"}', id="a")]}
    events, _ = read(HI, {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    assert text_of(events) == "Hi"
    assert [event.call.arguments for event in events if isinstance(event, ToolCallReady)] == [{"city": "A"}]


CITY = '{"city": "A"}'


@pytest.mark.parametrize("deltas", [
    [delta("functions.f:0", CITY, index=0, id="a")],
    [{"index": 0, "id": "a", "function": {"name": "f", "parameters": {"city": "A"}}}],
    [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": CITY}}],
    [None, delta("f", CITY, index=0, id={"no": "id"})],
    [delta("f", CITY, index=0, id="a"), delta(None, CITY, index=0, id="a")],
    [delta("f", CITY, index=0, id="a"), delta("f", CITY, index=0, id="a")],
])  # fmt: skip
def test_a_call_in_a_gateways_form_is_one_call(deltas: list[Any]) -> None:
    events, error = read(*calling(*deltas))
    assert error is None
    (call,) = (event.call for event in events if isinstance(event, ToolCallReady))
    assert (call.name, call.arguments, call.problem) == ("f", {"city": "A"}, None)


def test_an_empty_list_of_arguments_is_an_empty_object() -> None:
    events, _ = read(*calling(delta("f", [], index=0, id="a")))
    assert [event.call.arguments for event in events if isinstance(event, ToolCallReady)] == [{}]


def test_arguments_that_are_whole_twice_and_differ_are_not_guessed() -> None:
    events, _ = read(*calling(delta("f", CITY, index=0, id="a"), delta(None, '{"city": "B"}', index=0)))
    (call,) = (event.call for event in events if isinstance(event, ToolCallReady))
    assert call.problem is not None


def test_a_body_that_is_no_completion_keeps_its_words() -> None:
    body = json.dumps({"code": 40001, "msg": "the key has no quota"}).encode()
    _, error = read(data=body)
    assert isinstance(error, ProtocolError)
    assert error.server_message == "the key has no quota"


OVERFLOWS = [
    ("This model's maximum prompt length is 131072 but the request contains 537812 tokens.", Overflow(131072, 537812)),
    ("prompt token count of 140000 exceeds the limit of 128000", Overflow(128000, 140000)),
    ("Your request exceeded model token limit: 262144 (requested: 270000)", Overflow(262144, 270000)),
    ("prompt token count of 9000 cannot exceed the prompt token limit of 8192", Overflow(8192, 9000)),
    ("the number of input tokens 9000 cannot exceed the total tokens limit 8192", Overflow(8192, 9000)),
    ("Request prompt has 5000 tokens in total, larger than the model input length limit 4096.", Overflow(4096, 5000)),
    ("Prompt too long: context length 5000 is greater than max_seq_len 4096", Overflow(4096, 5000)),
    ("The input sequence length 9000 exceeds the maximum 8192", Overflow(8192, 9000)),
    ("Requested token count exceeds the model's max context length: 9000 > 8192", Overflow(8192, 9000)),
    ("Multimodal prompt is too long after expanding. len(ids)=100 => 5000 >= 4096.", Overflow(4096, 5000)),
    ("maximum context length is 131072 tokens. However, you requested about 150234 tokens (100000 of text input, 40234 "
     "of tool input, 10000 in the output).", Overflow(131072, 140234, 10000)),
    ("too many tokens: size limit exceeded by 312 tokens.", Overflow()),
    ("invalid params, context window exceeds limit", Overflow()),
    ("max_tokens is too large: 65536. This model supports at most 32768 completion tokens, whereas you provided 65536.",
     Overflow(32768, None, 65536, output=True)),
    ("`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the "
     "`context_window` for this model", Overflow(8192, None, None, output=True)),
    ("The maximum tokens you requested exceeds the model limit of 8192.", Overflow(8192, None, None, output=True)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "overflow"), OVERFLOWS)
def test_an_overflow_in_the_words_of_hosted_servers_is_read(words: str, overflow: Overflow) -> None:
    assert overflow_of(words, "", {}) == overflow
    error = error_for_status(400, {}, json.dumps({"error": {"message": words}}).encode(), Sent("r"))
    assert isinstance(error, ContextOverflow)
    assert ("max_tokens" in str(error)) == overflow.output


@pytest.mark.parametrize("words", ["tool name exceeds max length 64", "cache_salt exceeds max length"])
def test_the_length_of_a_name_is_no_overflow(words: str) -> None:
    assert overflow_of(words, "", {}) is None


@pytest.mark.parametrize("logprobs", [
    [{"token": "Hi", "logprob": -1.0}],
    {"content": [None, {"token": "Hi", "logprob": -1.0, "top_logprobs": None}]},
    {"content": [{"token": "Hi", "logprob": "-1", "top_logprobs": {"Hi": -1.0}}]},
])  # fmt: skip
def test_log_probabilities_in_a_gateways_form_are_read(logprobs: Any) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": logprobs}]}
    events, error = read(chunk, honest.delta({}, "stop"))
    assert error is None
    (text,) = (event for event in events if isinstance(event, TextDelta))
    assert [(token.text, token.logprob) for token in text.logprobs] == [("Hi", -1.0)]
