"""LangChain on Llama 4: `python examples/langchain_app.py [--url http://127.0.0.1:8000/v1]`.

Without a URL, a server in front of nano is started in this process. Needs
`pip install 'llama4sdk[local,serve]' langchain-openai`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from llama4sdk import Llama4
from llama4sdk.server import create_app, running


@tool
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
    """Stream a chain, and call a tool."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url")
    parser.add_argument("--no-guards", action="store_true", help="without guards around the server of our own")
    parser.add_argument("--model", default="nano")
    options = parser.parse_args()
    async with address(options.url, guarded=not options.no_guards) as url:
        model = ChatOpenAI(model=options.model, base_url=url, api_key=SecretStr("none"), temperature=0)

        chain = ChatPromptTemplate.from_messages([("human", "What is the capital of {country}?")]) | model
        async for chunk in chain.astream({"country": "France"}):
            print(chunk.text, end="", flush=True)
        print()

        question = HumanMessage("What is the weather in Paris?")
        with_tools = model.bind_tools([get_weather])
        asked = await with_tools.ainvoke([question])
        results = [await get_weather.ainvoke(call) for call in asked.tool_calls]  # messages, in the calls' order
        answered = await with_tools.ainvoke([question, asked, *results])
        print(answered.text)


if __name__ == "__main__":
    asyncio.run(main())
