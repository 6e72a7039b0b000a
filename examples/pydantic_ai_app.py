"""A pydantic-ai agent on Llama 4: `python examples/pydantic_ai_app.py [--url http://127.0.0.1:8000/v1]`.

Without a URL, a server in front of nano is started in this process. Needs
`pip install 'llama4sdk[local,serve]' 'pydantic-ai-slim[openai]'`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from llama4sdk import Llama4
from llama4sdk.server import create_app, running


def get_weather(city: str) -> dict[str, int]:
    """Current weather in a city."""
    print(f"get_weather({city!r})")
    return {"temperature": 21}


@asynccontextmanager
async def address(url: str | None, *, guarded: bool) -> AsyncGenerator[str]:
    """Yield the address of the API: the one that was given, or that of a server of our own."""
    if url is not None:
        yield url
        return
    async with Llama4(guards="auto" if guarded else None) as llama, running(create_app(llama)) as server:
        yield f"{server.url}/v1"


async def main() -> None:
    """Let an agent call a tool, and stream an answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url")
    parser.add_argument("--no-guards", action="store_true", help="without guards around the server of our own")
    parser.add_argument("--model", default="nano")
    options = parser.parse_args()
    async with (
        address(options.url, guarded=not options.no_guards) as url,
        AsyncOpenAI(base_url=url, api_key="none") as client,
    ):
        model = OpenAIChatModel(options.model, provider=OpenAIProvider(openai_client=client))
        agent = Agent(model, tools=[get_weather], model_settings={"temperature": 0})
        result = await agent.run("What is the weather in Paris?")
        print(result.output, result.usage.total_tokens)

        async with Agent(model, model_settings={"temperature": 0}).run_stream("Count from 1 to 6.") as streamed:
            async for text in streamed.stream_text(delta=True):
                print(text, end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main())
