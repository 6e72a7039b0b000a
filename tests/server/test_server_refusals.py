"""Requests that a server refuses, each in the form of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import httpx
import pytest

from llama4sdk import (
    BackendMissing,
    BadKey,
    CheckpointError,
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    LlamaError,
    Overloaded,
    ProtocolError,
    ServerFault,
    StreamInterrupted,
    TooManyImages,
    Unreachable,
)
from llama4sdk.server import KeyLimits, ServerOptions
from llama4sdk.testing import ScriptedBackend
from server_running import asking, error_of, serving

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


KEYS: list[tuple[str | bytes | None, str]] = [
    (None, "missing_api_key"),
    ("", "missing_api_key"),
    ("Bearer", "missing_api_key"),
    ("Basic abc", "missing_api_key"),
    ("Bearer wrong", "invalid_api_key"),
    ("Bearer right-and-more", "invalid_api_key"),
    ("Bearer righ", "invalid_api_key"),
    (b"Bearer \xff\xfe", "invalid_api_key"),
]
PATHS = [CHAT, "/v1/completions", "/tokenize", "/detokenize", "/v1/models", "/v1/models/script", "/metrics"]


async def test_a_missing_or_wrong_key_is_401_on_every_path() -> None:
    async with serving(ScriptedBackend("Hi"), api_keys=["right", "other"]) as client:
        for path in PATHS:
            for header, code in KEYS:
                headers: Any = {} if header is None else {"authorization": header}
                get = path.startswith("/v1/models") or path == "/metrics"
                response = await client.request(
                    "GET" if get else "POST", path, headers=headers, json=None if get else {}
                )
                assert response.status_code == 401, (path, header)
                error = error_of(response)
                assert (error["type"], error["code"]) == ("invalid_request_error", code), (path, header)
                assert "wrong" not in error["message"]


async def test_every_key_opens_and_health_needs_none() -> None:
    async with serving(ScriptedBackend("Hi"), api_keys=["right", "other"]) as client:
        for key in ("Bearer right", "bearer other", "BEARER   right"):
            assert (await client.post(CHAT, json=asking(), headers={"authorization": key})).status_code == 200
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200


MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"{}x",
    b'{"messages": [}',
    b"\xff\xfe",
    b'{"messages": "\\ud800"}',
    b"[" * 5000,
]


async def test_malformed_json_is_400() -> None:
    async with serving(ScriptedBackend("Hi")) as client:
        for body in MALFORMED:
            response = await client.post(CHAT, content=body, headers=JSON)
            assert response.status_code == 400, body[:20]
            assert error_of(response)["type"] == "invalid_request_error"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def allowing(*names: str, mode: str = "auto") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


WRONG_FIELDS: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"temprature": 1}, "temprature", "unknown_parameter"),
    ({"guided_json": {}}, "guided_json", "unknown_parameter"),
    ({"maxTokens": 1}, "maxTokens", "unknown_parameter"),
    ({"max-tokens": 1}, "max-tokens", "unknown_parameter"),
    ({"stream_options": {"str": True}}, "stream_options.str", "unknown_parameter"),
    ({"stream_options": {"usage": True}}, "stream_options.usage", "unknown_parameter"),
    ({"messages": [{"role": "user", "content": "a", "colour": 1}]}, "messages[0].colour", "unknown_parameter"),
    ({"messages": None}, "messages", "invalid_value"),
    ({"messages": "Hi"}, "messages", "invalid_value"),
    ({"messages": [1]}, "messages[0]", "invalid_value"),
    ({"messages": []}, None, None),
    ({"messages": [{"content": "a"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0].type", "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]", "invalid_value"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "path": "/etc/passwd"}]}]},
        "messages[0].content[0].type",
        "invalid_value",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]},
        "messages[0].content[0].image_url",
        "invalid_image_url",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://127.0.0.1/a.png"}]}]},
        "messages[0].content[0].image_url",
        "invalid_image_url",
    ),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, "messages[0]", "invalid_value"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, None, None),
    ({"temperature": "hot"}, "temperature", "invalid_value"),
    ({"temperature": -1}, "temperature", "invalid_value"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 1000}, "n", "invalid_value"),
    ({"stop": [""]}, "stop", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "logprobs", "invalid_value"),
    ({"logit_bias": {"five": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_value"),
    ({"logit_bias": [5]}, "logit_bias", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "tools", "invalid_value"),
    ({"tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "function"}}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, None, None),
    ({"response_format": {"type": "xml"}}, "response_format", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format", None),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
        "response_format",
        "invalid_value",
    ),
    ({"structured_outputs": {"regex": "a"}}, "structured_outputs", "invalid_value"),
    ({"modalities": ["audio"]}, "modalities", "invalid_value"),
    ({"continue_final_message": True}, "messages", None),
    ({"functions": []}, "functions", "unsupported_parameter"),
    ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
    ({"audio": {"voice": "alloy"}}, "audio", "unsupported_parameter"),
    ({"tools": [TOOL], "tool_choice": {"type": "custom", "name": "f"}}, "tool_choice", "invalid_value"),
    ({"tools": [TOOL], "tool_choice": allowing("g")}, "tool_choice", "invalid_value"),
    ({"tools": [TOOL], "tool_choice": allowing("f") | {"allowed_tools": {}}}, "tool_choice", "invalid_value"),
]


async def test_a_wrong_field_is_named() -> None:
    script = ScriptedBackend("Hi")
    async with serving(script) as client:
        for change, param, code in WRONG_FIELDS:
            response = await client.post(CHAT, json=asking() | change)
            assert response.status_code == 400, change
            error = error_of(response)
            assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error"), change
    assert not script.requests


# Fields that clients send without meaning anything by them, or in a second form.
TAKEN: list[tuple[dict[str, Any], str]] = [
    (dict.fromkeys(("audio", "prediction", "functions", "function_call", "web_search_options", "stop")), "auto"),
    ({"logprobs": False, "top_logprobs": 0}, "auto"),
    ({"tools": [], "tool_choice": "auto"}, "auto"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}}, "f"),
    ({"tools": [TOOL, TOOL | {"function": {"name": "g"}}], "tool_choice": allowing("f")}, "auto"),
    ({"tools": [TOOL, TOOL | {"function": {"name": "g"}}], "tool_choice": allowing("f", mode="required")}, "required"),
]


async def test_what_clients_send_without_a_meaning_is_taken_and_a_slash_at_the_end_of_a_path() -> None:
    script = ScriptedBackend("Hi")
    async with serving(script) as client:
        for change, choice in TAKEN:
            assert (await client.post(CHAT, json=asking() | change)).status_code == 200, change
            assert script.requests[-1].tool_choice == choice
            assert [tool.name for tool in script.requests[-1].tools] in ([], ["f"])
        assert (await client.post(f"{CHAT}/", json=asking())).status_code == 200
        assert (await client.get("/v1/models/")).json()["object"] == "list"
        assert error_of(await client.get("/health/"))["code"] == "unknown_url"


async def test_an_unknown_model_path_and_method_are_named() -> None:
    async with serving(ScriptedBackend("Hi"), model_names=["mine", "alias"]) as client:
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["mine", "alias"]
        assert (await client.post(CHAT, json=asking(model="alias"))).json()["model"] == "alias"
        assert (await client.get("/v1/models/mine")).json()["id"] == "mine"
        for response, code in (
            (await client.post(CHAT, json=asking(model="gpt-5")), "model_not_found"),
            (await client.get("/v1/models/gpt-5"), "model_not_found"),
            (await client.get("/v1/assistants"), "unknown_url"),
        ):
            assert response.status_code == 404
            assert error_of(response)["code"] == code
        for method, path in (("GET", CHAT), ("DELETE", "/v1/models")):
            response = await client.request(method, path)
            assert response.status_code == 405
            assert error_of(response)["code"] == "method_not_supported"


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large_is_413_and_the_next_request_is_served(announced: bool) -> None:
    body = json.dumps(asking("x" * 200_000)).encode()

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    script = ScriptedBackend("Hi")
    async with serving(script, max_body=100_000) as client:
        response = await client.post(CHAT, content=body if announced else pieces(), headers=JSON)
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"
        assert not script.requests
        assert (await client.post(CHAT, json=asking())).status_code == 200


async def test_a_body_that_never_comes_is_408() -> None:
    async def stalling() -> AsyncGenerator[bytes]:
        yield b"{"
        await anyio.sleep(3)

    async with serving(ScriptedBackend("Hi"), body_seconds=0.2) as client:
        try:
            response = await client.post(CHAT, content=stalling(), headers=JSON)
        except httpx.HTTPError:
            return  # the server closed the connection while the client still wrote
        assert response.status_code == 408


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_than_json_is_415(kind: str) -> None:
    async with serving(ScriptedBackend("Hi")) as client:
        response = await client.post(CHAT, content=json.dumps(asking()), headers={"content-type": kind})
    assert response.status_code == 415
    error_of(response)


async def test_a_page_of_another_name_is_refused_and_cors_is_off_by_default() -> None:
    origin = {"origin": "http://evil.example"}
    ask_first = {**origin, "access-control-request-method": "POST"}
    async with serving(ScriptedBackend("Hi"), allowed_hosts=["127.0.0.1"]) as client:
        wrong = await client.post(CHAT, json=asking(), headers={"host": "evil.example:8000"})
        assert wrong.status_code == 421
        assert error_of(wrong)["code"] == "wrong_host"
        assert (await client.options(CHAT, headers=ask_first)).status_code == 405
        answer = await client.post(CHAT, json=asking(), headers=origin)
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
    async with serving(ScriptedBackend("Hi"), cors_origins="http://mine.example") as client:
        mine = {"origin": "http://mine.example"}
        answer = await client.options(CHAT, headers={**mine, "access-control-request-method": "POST"})
        assert answer.headers["access-control-allow-origin"] == "http://mine.example"
        assert "access-control-allow-origin" not in (await client.post(CHAT, json=asking(), headers=origin)).headers


ERRORS: list[tuple[LlamaError, int, str | None]] = [
    (ContextOverflow("Too long.", prompt_tokens=9, limit=8), 400, "context_length_exceeded"),
    (TooManyImages("Too many."), 400, "too_many_images"),
    (InvalidRequest("No."), 400, None),
    (Overloaded("Busy.", retry_after=7), 503, "overloaded"),
    (DeadlineExceeded("Late.", phase="total"), 504, "deadline_exceeded"),
    (BadKey("The key for upstream is wrong."), 502, "backend_refused"),
    (Unreachable("Gone."), 502, "backend_unreachable"),
    (ProtocolError("Odd."), 502, "backend_protocol"),
    (StreamInterrupted("Cut."), 502, "backend_interrupted"),
    (ServerFault("Broken."), 500, "backend_failed"),
    (CheckpointError("/secret/path", ["no file"]), 503, "model_not_loaded"),
    (BackendMissing("No."), 503, "model_not_loaded"),
    (LlamaError("Odd."), 500, None),
]


async def test_every_error_of_the_tree_has_its_status() -> None:
    async with serving(ScriptedBackend(*([error] for error, _, _ in ERRORS))) as client:
        for error, status, code in ERRORS:
            response = await client.post(CHAT, json=asking())
            assert response.status_code == status, error
            answer = error_of(response)
            assert answer["code"] == code
            assert "/secret" not in answer["message"]
            if isinstance(error, Overloaded):
                assert response.headers["retry-after"] == "7"


async def test_an_exception_of_the_backends_own_is_500_without_its_words() -> None:
    def explode(request: object) -> str:
        raise KeyError("secret")

    async with serving(ScriptedBackend(explode)) as client:
        response = await client.post(CHAT, json=asking())
    assert response.status_code == 500
    assert "secret" not in response.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_keys": ""},
        {"api_keys": ["a", ""]},
        {"api_keys": [None]},
        {"api_keys": {"a": 5}},
        {"max_running": 0},
        {"max_body": -1},
        {"body_seconds": 0},
        {"cors_origins": [5]},
        {"model_names": [""]},
    ],
)
def test_wrong_options_are_refused_where_they_are_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        ServerOptions(**wrong)


def test_limits_of_keys_are_positive() -> None:
    with pytest.raises(InvalidRequest):
        KeyLimits(running=0)
