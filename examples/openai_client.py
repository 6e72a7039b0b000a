"""openai-python against this project's server: `python examples/openai_client.py [--url http://127.0.0.1:8000/v1]`.

Without a URL, a server in front of nano is started in this process, as `llama4sdk.server.serve` runs it in one of its
own. Needs `pip install 'llama4sdk[local,serve]' openai`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from openai import AsyncOpenAI
from pydantic import BaseModel

from llama4sdk import Llama4
from llama4sdk.server import create_app, running


class Sum(BaseModel):
    """The answer to a sum."""

    result: int


@asynccontextmanager
async def address(url: str | None, *, guarded: bool) -> AsyncGenerator[str]:
    """Yield the address of the API: the one that was given, or that of a server of our own."""
    if url is not None:
        yield url
        return
    async with Llama4(guards="auto" if guarded else None) as llama, running(create_app(llama)) as server:
        yield f"{server.url}/v1"


async def main() -> None:
    """Ask plainly, streamed, and for a typed answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url")
    parser.add_argument("--no-guards", action="store_true", help="without guards around the server of our own")
    options = parser.parse_args()
    async with (
        address(options.url, guarded=not options.no_guards) as url,
        AsyncOpenAI(base_url=url, api_key="none") as client,
    ):
        model = (await client.models.list()).data[0].id

        answer = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
        )
        print(answer.choices[0].message.content, answer.usage and answer.usage.total_tokens)

        chunks = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Count from 1 to 6."}], temperature=0, stream=True
        )
        async for chunk in chunks:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()

        parsed = await client.chat.completions.parse(
            model=model,
            messages=[{"role": "user", "content": "What is 17 + 25?"}],
            response_format=Sum,
            temperature=0,
        )
        print(repr(parsed.choices[0].message.parsed))


if __name__ == "__main__":
    asyncio.run(main())
