"""openai-python against the server, in front of nano: as its users write it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from llama4sdk import Llama4
from llama4sdk.server import create_app, running
from server_running import red_circle

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 17 + 25?"}]
WEATHER: ChatCompletionToolUnionParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Shape(BaseModel):
    """A shape in an image."""

    colour: str
    shape: str


@asynccontextmanager
async def client(key: str = "right") -> AsyncGenerator[AsyncOpenAI]:
    async with (
        Llama4() as llama,
        running(create_app(llama, api_keys="right"), shutdown_seconds=5) as server,
        AsyncOpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0) as asking,
    ):
        yield asking


async def test_plain_answers_models_and_counts() -> None:
    async with client() as asking:
        answer = await asking.chat.completions.create(model="nano", messages=QUESTION, temperature=0, seed=1)
        models = [model.id async for model in asking.models.list()]
    assert models == ["nano"]
    assert answer.choices[0].message.content == "17 + 25 = 42."
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.total_tokens > answer.usage.prompt_tokens > 0


async def test_streams_by_chunk_and_by_event() -> None:
    async with client() as asking:
        chunks = await asking.chat.completions.create(
            model="nano", messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        read = [chunk async for chunk in chunks]
        async with asking.chat.completions.stream(model="nano", messages=QUESTION, temperature=0) as events:
            kinds = [event.type async for event in events]
            final = await events.get_final_completion()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in read if chunk.choices) == "17 + 25 = 42."
    assert read[-1].usage is not None
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)
    assert final.choices[0].message.content == "17 + 25 = 42."


async def test_tools_are_called_and_answered_plain_and_streamed() -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
    async with client() as asking:
        first = await asking.chat.completions.create(model="nano", messages=messages, tools=[WEATHER], temperature=0)
        async with asking.chat.completions.stream(
            model="nano", messages=messages, tools=[WEATHER], temperature=0
        ) as events:
            streamed = (await events.get_final_completion()).choices[0].message
        message = first.choices[0].message
        assert message.tool_calls
        assert streamed.tool_calls
        call = message.tool_calls[0]
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        assert streamed.tool_calls[0].function.arguments == call.function.arguments
        assert first.choices[0].finish_reason == "tool_calls"
        answered = await asking.chat.completions.create(
            model="nano",
            messages=[
                *messages,
                message.model_dump(exclude_none=True),  # type: ignore[list-item]
                {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'},
            ],
            tools=[WEATHER],
            temperature=0,
        )
    assert "21" in (answered.choices[0].message.content or "")


async def test_typed_answers_are_parsed_also_about_images() -> None:
    about: list[ChatCompletionMessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": red_circle()}},
                {"type": "text", "text": "Describe the shape as JSON."},
            ],
        }
    ]
    async with client() as asking:
        parsed = await asking.chat.completions.parse(
            model="nano", messages=about, response_format=Shape, temperature=0, max_tokens=60
        )
    shape = parsed.choices[0].message.parsed
    assert isinstance(shape, Shape)


async def test_vision_sees() -> None:
    about: list[ChatCompletionMessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": red_circle()}},
                {"type": "text", "text": "What is in this picture?"},
            ],
        }
    ]
    async with client() as asking:
        answer = await asking.chat.completions.create(model="nano", messages=about, temperature=0)
    assert "red circle" in (answer.choices[0].message.content or "")


async def test_completions_echo_with_logprobs() -> None:
    async with client() as asking:
        answer = await asking.completions.create(
            model="nano", prompt="Hello there", max_tokens=1, echo=True, logprobs=1
        )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens
    assert "".join(logprobs.tokens) == answer.choices[0].text


@pytest.mark.parametrize("what", ["key", "model", "field", "context"])
async def test_errors_are_the_clients_own_kinds(what: str) -> None:
    kinds = {
        "key": openai.AuthenticationError,
        "model": openai.NotFoundError,
        "field": openai.BadRequestError,
        "context": openai.BadRequestError,
    }
    async with client("wrong" if what == "key" else "right") as asking:
        messages: list[ChatCompletionMessageParam] = QUESTION
        if what == "context":
            messages = [{"role": "user", "content": "one two " * 9000}]
        with pytest.raises(kinds[what]) as caught:
            await asking.chat.completions.create(
                model="gpt-5" if what == "model" else "nano",
                messages=messages,
                extra_body={"colour": 1} if what == "field" else None,
            )
    codes = {
        "key": "invalid_api_key",
        "model": "model_not_found",
        "field": "unknown_parameter",
        "context": "context_length_exceeded",
    }
    assert caught.value.code == codes[what]
