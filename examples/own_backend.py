"""A backend of your own, in thirty lines: this one answers in capitals.

Every promise that it should keep is a test: inherit `llama4sdk.testing.conformance.BackendConformance`
(see backends/README.md).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from llama4sdk import Capabilities, Done, Event, Llama4, Request, ServerFault, Started, TextDelta, Usage
from llama4sdk.backend import keep_deadlines


class Shouting:
    """Repeats the last message in capitals, word by word."""

    capabilities = Capabilities("shouting", "capitals", seed=True, vision=False)
    closed = False

    async def start(self) -> None:
        """Nothing to load."""

    async def aclose(self) -> None:
        """Let no further request in."""
        self.closed = True

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        """Run one request; leaving the block stops it."""
        if self.closed:
            raise ServerFault("This backend is closed.", backend="shouting", retryable=False)
        async with aclosing(self.events(request)) as events:
            yield keep_deadlines(events, request.deadlines, backend="shouting", request_id=request.request_id)

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        """Say it."""
        yield Started(request.request_id, "shouting", "capitals")
        words = request.messages[-1].text.upper().split()
        limit = request.sampling.max_tokens or len(words)
        for number, word in enumerate(words[:limit]):
            await asyncio.sleep(0)  # a real backend waits for its model here
            if self.closed:
                raise ServerFault("This backend was closed.", backend="shouting", retryable=False)
            yield TextDelta(f" {word}" if number else word)
        yield Done("length" if limit < len(words) else "stop", Usage(len(words), min(limit, len(words))))


async def main() -> None:
    """Talk to it as to any other."""
    async with Llama4(Shouting(), guards=None if "--no-guards" in sys.argv else "auto") as llama:
        reply = await llama.chat("the same messages, the same events, the same errors")
    print(f"{reply.text}  ({reply.usage.completion_tokens} tokens)")


if __name__ == "__main__":
    asyncio.run(main())
