"""Chat answers of the server, whole and streamed, in front of nano and of scripts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llama4sdk import ServerFault, TextDelta, ToolCall, ToolCallReady
from llama4sdk.testing import ScriptedBackend
from server_running import asking, chunks_of, error_of, red_circle, serving

CHAT = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


async def test_an_answer_has_text_usage_and_reason() -> None:
    async with serving() as client:
        answer = (await client.post(CHAT, json=asking("What is 17 + 25?", model="nano"))).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "nano"
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "17 + 25 = 42.", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] > 2


async def test_a_stream_adds_up_to_the_answer_and_ends_with_counts_where_asked() -> None:
    async with serving() as client:
        whole = (await client.post(CHAT, json=asking())).json()
        plain = chunks_of((await client.post(CHAT, json=asking(stream=True))).text)
        response = await client.post(CHAT, json=asking(stream=True, stream_options={"include_usage": True}))
    counted = chunks_of(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    for chunks in (plain, counted[:-1]):
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("content") or "" for delta in deltas) == whole["choices"][0]["message"]["content"]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
        assert len({chunk["id"] for chunk in chunks}) == 1
    assert counted[-1]["choices"] == []
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert counted[-1]["usage"][name] == whole["usage"][name]
    assert all(chunk["usage"] is None for chunk in counted[:-1])
    assert not any("usage" in chunk for chunk in plain)


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_and_their_results_answered(stream: bool) -> None:
    question = "What is the weather in Paris?"
    async with serving() as client:
        response = await client.post(CHAT, json=asking(question, tools=[WEATHER], stream=stream))
        if stream:
            chunks = chunks_of(response.text)
            calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
            assert calls[0].pop("index") == 0
            reason = chunks[-1]["choices"][0]["finish_reason"]
        else:
            choice = response.json()["choices"][0]
            calls, reason = choice["message"]["tool_calls"], choice["finish_reason"]
            assert choice["message"]["content"] is None
        assert reason == "tool_calls"
        assert calls[0]["function"]["name"] == "get_weather"
        assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Paris"}
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": calls[0]["id"], "content": '{"temperature": 21}'},
        ]
        answer = (await client.post(CHAT, json={"messages": messages, "tools": [WEATHER], "temperature": 0})).json()
    assert "21" in answer["choices"][0]["message"]["content"]


async def test_a_tool_that_is_named_is_called_and_one_at_a_time_where_asked() -> None:
    script = ScriptedBackend(
        [ToolCallReady(3, ToolCall("get_weather", {"city": "Rome"}, "a")), ToolCallReady(4, ToolCall("f", id="b"))]
    )
    choice = {"type": "function", "function": {"name": "get_weather"}}
    body = asking(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
    async with serving(script) as client:
        whole = (await client.post(CHAT, json=body)).json()
        chunks = chunks_of((await client.post(CHAT, json=body | {"stream": True})).text)
    assert [call["id"] for call in whole["choices"][0]["message"]["tool_calls"]] == ["a"]
    deltas = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call["index"], call["id"]) for call in deltas] == [(0, "a")]
    assert script.requests[0].tool_choice == "get_weather"


async def test_a_call_that_could_not_be_read_never_looks_like_one_to_run() -> None:
    broken = ToolCall("get_weather", None, "a", "This call could not be read.")
    async with serving(ScriptedBackend([ToolCallReady(0, broken)])) as client:
        answer = (await client.post(CHAT, json=asking(tools=[WEATHER]))).json()
    arguments = answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(arguments)


async def test_images_come_as_data_urls_and_are_counted() -> None:
    content: list[Any] = [
        {"type": "image_url", "image_url": {"url": red_circle(), "detail": "high"}},
        {"type": "text", "text": "What is in this picture?"},
    ]
    async with serving() as client:
        answer = (
            await client.post(CHAT, json={"messages": [{"role": "user", "content": content}], "temperature": 0})
        ).json()
    details = answer["usage"]["prompt_tokens_details"]
    assert details["image_tokens"] > 0
    assert "red circle" in answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}},
        {"response_format": {"type": "json_schema", "schema": {"type": "integer"}}},
        {"structured_outputs": {"json": {"type": "integer"}}},
    ],
)
async def test_answers_keep_to_a_schema(form: dict[str, Any]) -> None:
    async with serving() as client:
        answer = (await client.post(CHAT, json=asking("What is 17 + 25?", max_tokens=20, **form))).json()
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), int)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_of_words_comes_without_quotes(stream: bool) -> None:
    body = asking("Is fire hot?", structured_outputs={"choice": ["yes", "no"]}, stream=stream)
    async with serving() as client:
        response = await client.post(CHAT, json=body)
    if stream:
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(response.text)]
        text = "".join(delta.get("content") or "" for delta in deltas)
    else:
        text = response.json()["choices"][0]["message"]["content"]
    assert text in ("yes", "no")


async def test_several_answers_have_seeds_of_their_own_and_share_the_prompts_count() -> None:
    script = ScriptedBackend("one two")
    async with serving(script) as client:
        whole = (await client.post(CHAT, json=asking(n=3, seed=5))).json()
        body = asking(n=2, stream=True, stream_options={"include_usage": True})
        chunks = chunks_of((await client.post(CHAT, json=body)).text)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert [request.sampling.seed for request in script.requests[:3]] == [5, 6, 7]
    assert whole["usage"]["completion_tokens"] == 6
    assert whole["usage"]["prompt_tokens"] == 1
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert set(texts.values()) == {"one two"}


async def test_logprobs_name_tokens_bytes_and_alternatives() -> None:
    async with serving() as client:
        body = asking(logprobs=True, top_logprobs=2, max_tokens=3)
        whole = (await client.post(CHAT, json=body)).json()["choices"][0]["logprobs"]["content"]
        chunks = chunks_of((await client.post(CHAT, json=body | {"stream": True})).text)
    streamed = [entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {"content": ()})["content"]]
    assert len(whole) == 3
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in whole]
    for entry in whole:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 2
        assert entry["logprob"] <= 0


async def test_a_biased_token_is_never_or_always_written() -> None:
    async with serving() as client:
        first = (await client.post("/tokenize", json={"prompt": "Hello", "add_special_tokens": False})).json()["tokens"]
        plain = (await client.post(CHAT, json=asking())).json()
        without = (await client.post(CHAT, json=asking(logit_bias={str(first[0]): -100}))).json()
        only = (await client.post(CHAT, json=asking(logit_bias={str(first[0]): 100}, max_tokens=3))).json()
    assert plain["choices"][0]["message"]["content"].startswith("Hello")
    assert "Hello" not in without["choices"][0]["message"]["content"]
    assert only["choices"][0]["message"]["content"] == "HelloHelloHello"


async def test_parameters_reach_the_backend() -> None:
    script = ScriptedBackend("Hi")
    fields = {
        "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "max_completion_tokens": 7, "min_tokens": 1,
        "stop": ["x"], "stop_token_ids": [3], "seed": 9, "repetition_penalty": 1.1, "presence_penalty": 0.2,
        "frequency_penalty": 0.3, "priority": 4, "cache_salt": "salt", "user": "u", "metadata": {"a": "b"},
    }  # fmt: skip
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "Hi", "name": "ann"},
    ]
    async with serving(script) as client:
        assert (await client.post(CHAT, json={"messages": messages, **fields})).status_code == 200
    request = script.requests[0]
    assert [(message.role, message.text) for message in request.messages] == [
        ("system", "Be brief.\n\nBe kind."),
        ("user", "Hi"),
    ]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 0, 0.1)
    assert (sampling.max_tokens, sampling.min_tokens, sampling.seed) == (7, 1, 9)
    assert (sampling.stop_strings, tuple(sampling.stop_token_ids)) == (("x",), (3,))
    assert (request.priority, request.cache_salt) == (-4, "salt")


async def test_an_error_in_the_middle_is_an_event_and_the_stream_ends() -> None:
    script = ScriptedBackend([TextDelta("Hel"), ServerFault("The model broke down.")])
    async with serving(script) as client:
        response = await client.post(CHAT, json=asking(stream=True))
        events = chunks_of(response.text)
    assert response.status_code == 200
    assert events[-1]["error"]["message"] == "The model broke down."
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1]) == "Hel"


async def test_an_error_before_the_first_token_is_a_status() -> None:
    async with serving(ScriptedBackend([ServerFault("The model broke down.")])) as client:
        response = await client.post(CHAT, json=asking(stream=True))
    assert response.status_code == 500
    assert error_of(response)["code"] == "backend_failed"
