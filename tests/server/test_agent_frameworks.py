"""pydantic-ai and LangChain against the server, in front of nano."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from pydantic import BaseModel, SecretStr
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from llama4sdk import Llama4
from llama4sdk.server import create_app, running
from server_running import red_circle


class Sum(BaseModel):
    """The answer to a sum."""

    result: int


@asynccontextmanager
async def address() -> AsyncGenerator[str]:
    async with Llama4() as llama, running(create_app(llama), shutdown_seconds=5) as server:
        yield server.url + "/v1"


@asynccontextmanager
async def pydantic_model() -> AsyncGenerator[OpenAIChatModel]:
    # With a client of its own, pydantic-ai keeps connections until the process ends.
    async with address() as url, AsyncOpenAI(base_url=url, api_key="none") as client:
        yield OpenAIChatModel("nano", provider=OpenAIProvider(openai_client=client))


@asynccontextmanager
async def langchain_model() -> AsyncGenerator[ChatOpenAI]:
    # With clients of its own, LangChain keeps connections until the process ends.
    async with address() as url, httpx.AsyncClient(trust_env=False) as asynchronous:
        with httpx.Client(trust_env=False) as synchronous:
            yield ChatOpenAI(
                model="nano",
                base_url=url,
                api_key=SecretStr("none"),
                temperature=0,
                http_client=synchronous,
                http_async_client=asynchronous,
            )


async def test_pydantic_ai_answers_with_a_tool() -> None:
    async with pydantic_model() as model:
        agent = Agent(model, model_settings={"temperature": 0})
        cities: list[str] = []

        @agent.tool_plain
        def get_weather(city: str) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
            """Current weather in a city."""
            cities.append(city)
            return {"temperature": 21}

        result = await agent.run("What is the weather in Paris?")
    assert cities == ["Paris"]
    assert "21" in result.output


async def test_pydantic_ai_reads_typed_answers_and_streams() -> None:
    async with pydantic_model() as model:
        typed = await Agent(model, output_type=NativeOutput(Sum)).run("What is 17 + 25?")
        async with Agent(model, model_settings={"temperature": 0}).run_stream("What is 17 + 25?") as streamed:
            texts = [text async for text in streamed.stream_text(delta=True)]
    assert isinstance(typed.output, Sum)
    assert "".join(texts) == "17 + 25 = 42."


async def test_pydantic_ai_sends_images() -> None:
    async with pydantic_model() as model:
        agent = Agent(model, instructions="Be brief.", model_settings={"temperature": 0})
        result = await agent.run([BinaryContent.from_data_uri(red_circle()), "What is in this picture?"])
    assert "red circle" in result.output


@tool
def get_weather(city: str) -> str:
    """Current weather in a city."""
    return '{"temperature": 21}' if city == "Paris" else "{}"


async def test_langchain_answers_and_streams() -> None:
    async with langchain_model() as model:
        reply = await model.ainvoke([HumanMessage("What is 17 + 25?")])
        texts = [str(chunk.text) async for chunk in model.astream("What is 17 + 25?")]
        batch = await model.abatch(["Hello!", "What is 17 + 25?"])
    assert str(reply.text) == "".join(texts) == str(batch[1].text) == "17 + 25 = 42."
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] > 0


async def test_langchain_calls_tools_and_reads_typed_answers() -> None:
    async with langchain_model() as model:
        with_tools = model.bind_tools([get_weather])
        question = HumanMessage("What is the weather in Paris?")
        asked = await with_tools.ainvoke([question])
        call = asked.tool_calls[0]
        result = await get_weather.ainvoke(call["args"])
        answered = await with_tools.ainvoke([question, asked, ToolMessage(result, tool_call_id=call["id"])])
        typed = await model.with_structured_output(Sum, method="json_schema").ainvoke("What is 17 + 25?")
    assert call["args"] == {"city": "Paris"}
    assert "21" in str(answered.text)
    assert isinstance(typed, Sum)


@pytest.mark.parametrize("system", [True, False])
async def test_langchain_sends_images(system: bool) -> None:
    content: list[str | dict[str, object]] = [
        {"type": "image_url", "image_url": {"url": red_circle()}},
        {"type": "text", "text": "What is in this picture?"},
    ]
    messages = [SystemMessage("Be brief.")] if system else []
    async with langchain_model() as model:
        reply = await model.ainvoke([*messages, HumanMessage(content)])
    assert "red circle" in str(reply.text)
