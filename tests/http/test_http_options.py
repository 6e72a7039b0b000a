"""Options and addresses of the remote backend as users write them: taken, or refused at once with the way out."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

from http_asking import ask
from llama4_http import HttpBackend, Retries
from llama4_http.errors import Sent, error_for_status
from llama4_http.network import beginning
from llama4_http.settings import checked_url
from llama4sdk.errors import BadKey, ContextOverflow, InvalidRequest, LlamaError, ServerFault, Unreachable

URL = "http://127.0.0.1:8000/v1"
NAN = float("nan")


@pytest.mark.parametrize("url", [
    "http://h/v1", "http://h", "http://h/", "http://h/v1/", "http://h//v1", "http://h/v1/v1/", "HTTP://h/v1?",
    "http://h/v1/chat/completions", "http://h/v1/completions/", "http://h/v1/models",
])  # fmt: skip
def test_one_address_may_be_written_in_several_ways(url: str) -> None:
    assert checked_url(url) == "http://h/v1"


@pytest.mark.parametrize("url", ["http://h/openai", "http://[::1]:8000/api/v1", "https://h:8443/v1/tenant"])
def test_other_paths_stay(url: str) -> None:
    assert checked_url(url) == url


@pytest.mark.parametrize("option", [
    {"model": 5}, {"model": ""}, {"model": b"m"}, {"profile": 5}, {"max_connections": "5"}, {"max_connections": 1.5},
    {"max_connections": True}, {"client": httpx.Client}, {"tokenizer": 5}, {"retries": 3}, {"retries": None},
    {"verify_prompt": "no"}, {"show_schema": 1}, {"fit_images": None}, {"prefill": None}, {"tile": "x"},
    {"max_tiles": None}, {"max_images": "5"}, {"max_images": -1}, {"image_limits": {}}, {"extra_body": 5},
    {"extra_body": {"n": 2}}, {"extra_body": {5: 1}}, {"extra_body": {"x": object()}}, {"max_event_bytes": 1.5},
    {"max_answer_bytes": None}, {"api_key": "Bearer sk-1"},
])  # fmt: skip
def test_an_option_of_a_wrong_kind_is_refused_by_its_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(InvalidRequest, match="profile" if name == "profile" else name):
        HttpBackend(URL, **option)


@pytest.mark.parametrize("option", [
    {"times": "2"}, {"times": 1.5}, {"times": None}, {"times": 10**400}, {"first_wait": NAN}, {"first_wait": None},
    {"longest_wait": float("inf")}, {"resend": "no"},
])  # fmt: skip
def test_retries_of_a_wrong_kind_are_refused_by_their_name(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(option))):
        Retries(**option)


async def test_an_unreachable_server_is_named_without_its_path() -> None:
    backend = HttpBackend("http://127.0.0.1:1/account-7/v1", model="m", profile="vllm", retries=Retries(times=0))
    error = (await ask(backend)).error
    assert isinstance(error, Unreachable)
    assert "http://127.0.0.1:1 " in str(error)
    assert "account-7" not in str(error)
    await backend.aclose()


OVERFLOW = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."


@pytest.mark.parametrize("encode", [gzip.compress, bytes])
async def test_a_compressed_error_keeps_its_words(encode: Any) -> None:
    body = json.dumps({"error": {"message": OVERFLOW}}).encode()
    encoding = "gzip" if encode is gzip.compress else "identity"
    response = httpx.Response(400, headers={"content-encoding": encoding}, stream=httpx.ByteStream(encode(body)))
    assert await beginning(response) == body
    bomb = httpx.Response(
        400, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(gzip.compress(b"x" * 2**22))
    )
    assert await beginning(bomb, 1000) == b"x" * 1000


@pytest.mark.parametrize(("status", "body", "kind"), [
    (400, {"error": {"message": "Provider returned error", "metadata": {"raw": OVERFLOW}}}, ContextOverflow),
    (502, {"error": {"message": OVERFLOW}}, ContextOverflow),
    (400, {"error": {"message": "API key not valid. Please pass a valid API key."}}, BadKey),
    (424, {"error": "Request failed during generation", "error_type": "generation"}, ServerFault),
])  # fmt: skip
def test_an_error_is_read_by_its_words_behind_another_status(status: int, body: Any, kind: type[LlamaError]) -> None:
    assert type(error_for_status(status, {}, json.dumps(body).encode(), Sent("r"))) is kind


@pytest.mark.parametrize("body", [b"", b"<html>413 Request Entity Too Large</html>"])
def test_a_refusal_without_words_names_the_proxy(body: bytes) -> None:
    error = error_for_status(413, {}, body, Sent("r"))
    assert isinstance(error, InvalidRequest)
    assert "proxy" in str(error)
