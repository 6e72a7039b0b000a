"""A web application that answers with Llama 4: `python examples/web_app.py [--port 8000] [--backend NAME]`.

Three ways side by side: a route of its own that streams plain text, one that returns a typed answer, and OpenAI's API
with the chat page below `/llm/`. With `--no-guards` no turn is checked.
Needs `pip install 'llama4sdk[local,serve]'`. Try it:

    curl --no-buffer --data 'What is 17 + 25?' http://127.0.0.1:8000/ask
    curl --data 'What is 17 + 25?' http://127.0.0.1:8000/sum
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from llama4sdk import GuardBlocked, InvalidRequest, Llama4, LlamaError
from llama4sdk.server import create_app, running


class Sum(BaseModel):
    """The answer to a sum."""

    result: int


def web_app(llama: Llama4) -> Starlette:
    """Return the application; it enters the client when it starts, and closes it when it ends."""

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncGenerator[None]:
        async with llama:
            yield

    async def ask(request: Request) -> Response:
        question = (await request.body()).decode("utf-8", "replace")
        return StreamingResponse(streamed(llama, question), media_type="text/plain; charset=utf-8")

    async def add(request: Request) -> Response:
        question = (await request.body()).decode("utf-8", "replace")
        reply = await llama.chat(question, output=Sum)
        return JSONResponse({"result": reply.output.result, "tokens": reply.usage.total_tokens})

    async def refused(_: Request, error: Exception) -> Response:
        return PlainTextResponse(
            f"{error}\n", status_code=400 if isinstance(error, InvalidRequest | GuardBlocked) else 502
        )

    return Starlette(
        routes=[
            Route("/ask", ask, methods=["POST"]),
            Route("/sum", add, methods=["POST"]),
            Mount("/llm", create_app(llama, chat_page=True)),
        ],
        exception_handlers={LlamaError: refused},
        lifespan=life,
    )


async def streamed(llama: Llama4, question: str) -> AsyncGenerator[str]:
    """Yield the answer as it is written; when the client leaves, the block is left and the model stops."""
    async with llama.stream(question) as stream:
        async for text in stream.text():
            yield text
    yield "\n"


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--backend")
    parser.add_argument("--no-guards", action="store_true")
    options = parser.parse_args()
    llama = Llama4(options.backend, guards=None if options.no_guards else "auto")
    async with running(web_app(llama), port=options.port, signals=True) as server:
        print(f"{server.url}/ask, {server.url}/sum, and the chat page {server.url}/llm/", flush=True)
        await server.ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
