"""Requests as JSON for each kind of server, retries, profiles and errors: everything pure."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama4_http.errors import Sent, error_for_status
from llama4_http.outgoing import check, compose
from llama4_http.profiles import PROFILES, context_of, detect, only_model, profile_named
from llama4_http.retry import MAX_RETRY_AFTER, Retries, retry_after
from llama4_http.settings import Settings, checked_url
from llama4_http.wire import chat_body
from llama4sdk.errors import ContextOverflow, InvalidRequest, Overloaded, TooManyImages
from llama4sdk.messages import conversation
from llama4sdk.request import OutputSpec, Request, Sampling, ToolSpec

TOOL = ToolSpec("get_weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}}
CITY = '{"city": "Rome"}'
NAMED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def body(request: Request, profile: str = "openai-generic", **options: Any) -> dict[str, Any]:
    return chat_body(request, profile_named(profile), model="m", **options)


def posted(request: Request, profile: str, *, prompt_ids: list[int] | None = None, **settings: Any) -> tuple[str, Any]:
    out = compose(request, profile_named(profile), Settings(**settings), model="m", prompt_ids=prompt_ids)
    return out.path, json.loads(out.body)


def test_a_plain_question_is_a_plain_body() -> None:
    assert body(Request(conversation("Hi"))) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_dialog_with_tools_keeps_calls_and_results_together() -> None:
    dialog = conversation(
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}],
            },
            {"role": "tool", "content": "sunny"},
        ]
    )
    sent = body(Request(dialog, tools=(TOOL,), tool_choice="get_weather"))
    _, asked, answered = sent["messages"]
    assert asked["tool_calls"][0]["id"] == answered["tool_call_id"]
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}
    assert sent["tools"][0]["function"]["name"] == "get_weather"
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}


def test_where_the_server_takes_no_tools_the_prompt_tells_of_them() -> None:
    sent = body(Request(conversation("Weather?"), tools=(TOOL,)), "transformers")
    assert "tools" not in sent
    assert "get_weather" in sent["messages"][0]["content"]


def test_they_may_be_told_in_the_users_message() -> None:
    request = Request(conversation("Weather?"), tools=(TOOL,), tool_choice="required")
    _, sent = posted(request, "transformers", tools_in="user")
    (message,) = sent["messages"]
    told = message["content"] if isinstance(message["content"], str) else message["content"][0]["text"]
    assert message["role"] == "user"
    assert "You must call at least one function now." in told
    with pytest.raises(InvalidRequest, match="tools_in"):
        Settings(tools_in="tool")  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_choice_of_tools_is_sent_as_it_is(choice: str) -> None:
    assert body(Request(conversation("Hi"), tools=(TOOL,), tool_choice=choice))["tool_choice"] == choice


def test_tools_that_may_not_be_called_are_not_told_of() -> None:
    assert "tools" not in body(Request(conversation("Hi"), tools=(TOOL,), tool_choice="none"))


@pytest.mark.parametrize(
    ("profile", "field"),
    [
        ("openai-generic", {"response_format": NAMED}),
        ("sglang", {"response_format": NAMED}),
        ("llamacpp", {"response_format": {"type": "json_schema", "schema": SCHEMA}}),
        ("vllm", {"structured_outputs": {"json": SCHEMA}}),
    ],
)  # fmt: skip
def test_a_schema_goes_where_the_server_looks_for_it(profile: str, field: dict[str, Any]) -> None:
    sent = body(Request(conversation("Hi"), output=OutputSpec(SCHEMA)), profile)
    assert sent.items() >= field.items()


def test_a_schema_that_the_server_cannot_keep_is_asked_for_in_words() -> None:
    sent = body(Request(conversation("Hi"), output=OutputSpec(SCHEMA)), "nvidia-catalog")
    assert "integer" in sent["messages"][0]["content"]


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("field", ["top_k", "min_p", "seed", "repetition_penalty", "presence_penalty"])
def test_a_field_that_the_server_lacks_is_refused_and_never_dropped(profile: str, field: str) -> None:
    values: dict[str, Any] = {field: 5 if field in ("top_k", "seed") else 0.5}
    request = Request(conversation("Hi"), sampling=Sampling(**values))
    if field in profile_named(profile).sampling:
        assert values[field] in body(request, profile).values()
    else:
        with pytest.raises(InvalidRequest, match=field):
            body(request, profile)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_biases_are_sent_by_token_id_or_refused(profile: str) -> None:
    request = Request(conversation("Hi"), sampling=Sampling(logit_bias={12: 1.5, 3: -100}))
    if profile in ("llama4sdk", "nvidia-catalog", "transformers"):
        with pytest.raises(InvalidRequest, match="logit_bias"):
            body(request, profile)
    else:
        assert body(request, profile)["logit_bias"] == {"3": -100.0, "12": 1.5}


def test_llamacpp_has_its_own_name_for_the_repetition_penalty() -> None:
    sent = body(Request(conversation("Hi"), sampling=Sampling(repetition_penalty=1.1)), "llamacpp")
    assert (sent["repeat_penalty"], sent["return_progress"]) == (1.1, True)


def test_priority_and_salt_go_to_servers_that_know_them() -> None:
    sent = body(Request(conversation("Hi"), priority=3, cache_salt="s"), "vllm")
    assert (sent["priority"], sent["cache_salt"]) == (-3, "s")
    with pytest.raises(InvalidRequest, match="cache_salt"):
        body(Request(conversation("Hi"), cache_salt="s"))


def test_a_client_side_prompt_is_sent_as_token_ids() -> None:
    request = Request(conversation("Hi"), sampling=Sampling(logprobs=2))
    path, sent = posted(request, "vllm", prompt_ids=[1, 2], prompt_mode="client", verify_prompt=True)
    assert (path, sent["prompt"], sent["logprobs"], sent["return_token_ids"]) == ("/completions", [1, 2], 2, True)
    path, sent = posted(Request(conversation("Hi")), "sglang", prompt_ids=[1, 2], prompt_mode="client")
    assert (path, sent["input_ids"]) == ("/chat/completions", [1, 2])
    with pytest.raises(InvalidRequest, match="token ids"):
        check(request, profile_named("transformers"), Settings(prompt_mode="client"))


def test_a_prefill_is_sent_where_the_server_goes_on_with_it() -> None:
    _, sent = posted(Request(conversation("Hi")), "vllm", prefill="Sure,")
    assert sent["messages"][-1] == {"role": "assistant", "content": "Sure,"}
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
    with pytest.raises(InvalidRequest, match="prefill"):
        check(Request(conversation("Hi")), profile_named("openai-generic"), Settings(prefill="Sure,"))


def test_extra_fields_of_the_caller_win() -> None:
    _, sent = posted(Request(conversation("Hi")), "vllm", extra_body={"model": "mine", "best_of": 2})
    assert (sent["model"], sent["best_of"]) == ("mine", 2)


def test_more_images_than_the_server_takes_are_refused_before_sending() -> None:
    request = Request(conversation([{"role": "user", "content": [{"type": "image", "data": b"x"}] * 6}]))
    with pytest.raises(TooManyImages, match="at most 5"):
        check(request, profile_named("nim"), Settings())
    check(request, profile_named("vllm"), Settings())
    with pytest.raises(TooManyImages):
        check(request, profile_named("vllm"), Settings(max_images=2))


@pytest.mark.parametrize(
    ("models", "headers", "version", "name"),
    [
        ({"data": [{"id": "m", "owned_by": "vllm"}]}, {}, None, "vllm"),
        ({"data": [{"id": "m", "owned_by": "sglang"}]}, {}, {"version": "1"}, "sglang"),
        ({"data": [{"id": "m", "owned_by": "llamacpp"}]}, {}, None, "llamacpp"),
        (None, {"server": "llama.cpp"}, None, "llamacpp"),
        ({"data": [{"id": "m", "owned_by": "nvidia"}]}, {}, None, "nim"),
        (None, {}, {"version": "0.11"}, "vllm"),
        (None, {}, None, "openai-generic"),
        ({"data": "odd"}, {}, {"version": 3}, "openai-generic"),
    ],
)
def test_a_server_is_known_by_what_it_tells(models: Any, headers: Any, version: Any, name: str) -> None:
    assert detect("http://host/v1", models=models, headers=headers, version=version).name == name


def test_the_catalog_is_known_by_its_host() -> None:
    assert detect("https://integrate.api.nvidia.com/v1", models=None, headers={}, version=None).name == "nvidia-catalog"


def test_what_the_list_of_models_tells_is_used() -> None:
    models = {"data": [{"id": "a", "max_model_len": 4096}, {"id": "b", "meta": {"n_ctx": 8192}}]}
    assert (context_of(models, "a"), context_of(models, "b"), context_of(models, "c")) == (4096, 8192, None)
    with pytest.raises(InvalidRequest, match="a, b"):
        only_model(models)
    assert only_model({"data": [{"id": "a"}]}) == "a"


@pytest.mark.parametrize(
    ("given", "kept"), [("http://h", "http://h/v1"), ("http://h/", "http://h/v1"), ("http://h/x/", "http://h/x")]
)
def test_an_address_without_a_path_gets_the_usual_one(given: str, kept: str) -> None:
    assert checked_url(given).rstrip("/") == kept or checked_url(given) == kept


@given(st.text(max_size=40) | st.floats().map(str) | st.integers().map(str))
def test_fault_02_any_retry_after_is_clamped(value: str) -> None:
    wait = retry_after(value)
    assert wait is None or 0 <= wait <= MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("-1", 0.0),
        ("nan", None),
        ("1e99", MAX_RETRY_AFTER),
        ("inf", MAX_RETRY_AFTER),
        ("soon", None),
        (None, None),
    ],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


@given(st.integers(-(10**6), 10**6))
def test_retry_after_as_a_date(offset: int) -> None:
    value = format_datetime(NOW + timedelta(seconds=offset), usegmt=True)
    assert retry_after(value, now=NOW) == min(max(offset, 0), MAX_RETRY_AFTER)


@given(st.integers(1, 10), st.floats(0, 100), st.none() | st.floats(0, 7200), st.floats(0, 0.999))
def test_a_wait_is_bounded_by_the_deadline_and_never_shorter_than_asked_for(
    attempt: int, left: float, asked: float | None, drawn: float
) -> None:
    wait = Retries(times=5).wait_before(attempt, retry_after=asked, left=left, draw=[drawn].pop)
    if wait is not None:
        assert attempt <= 5
        assert (asked or 0) <= wait < left
        assert wait <= 60


def test_waits_spread_over_a_doubling_span() -> None:
    retries = Retries(times=9, first_wait=0.5, longest_wait=3)
    spans = [retries.wait_before(attempt, draw=lambda: 1.0, left=math.inf) for attempt in range(1, 6)]
    assert spans == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert retries.wait_before(1, draw=lambda: 0.0) == 0.0
    assert Retries(times=0).wait_before(1) is None


@pytest.mark.parametrize(
    "told",
    [
        {"error": {"message": "maximum context length is 8192 tokens, you requested 9000 tokens", "code": 400}},
        {"object": "error", "message": "The prompt is too long: context length 8192, got 9000"},
        {"detail": "max_model_len 8192 exceeded by 9000"},
        {"error": {"code": 400, "message": "request (9000 tokens) exceeds the available context size (8192 tokens)"}},
    ],
)
def test_an_overflow_is_known_in_every_servers_words(told: Any) -> None:
    error = error_for_status(400, {}, json.dumps(told).encode(), Sent("r"))
    assert isinstance(error, ContextOverflow)
    assert (error.limit, error.prompt_tokens) == (8192, 9000)


@given(st.sampled_from([400, 401, 404, 410, 429, 500, 503, 302, 299]), st.binary(max_size=200))
def test_any_error_body_gives_one_error_that_does_not_quote_it(status: int, data: bytes) -> None:
    error = error_for_status(status, {"retry-after": "3"}, b"CANARY " + data, Sent("r"))
    assert "CANARY" not in str(error)
    assert error.request_id == "r"
    assert not isinstance(error, Overloaded) or error.retry_after == 3
