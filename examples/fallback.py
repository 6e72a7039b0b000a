"""Several backends as one: an answer that breaks off goes on elsewhere."""

from __future__ import annotations

import asyncio
import sys

from llama4sdk import Llama4, Sampling, StreamInterrupted, Switched, TextDelta
from llama4sdk.routing import Breaker, Fallback, Limited
from llama4sdk.testing import ScriptedBackend


async def main() -> None:
    """Ask a backend that breaks off in the middle; nano writes the rest."""
    flaky = ScriptedBackend(["The capital of", StreamInterrupted("the connection broke")])
    backends = Fallback(flaky, Limited("local", concurrency=4), breaker=Breaker(failures=3, rest=10))
    async with Llama4(backends, guards=None if "--no-guards" in sys.argv else "auto") as llama:
        prompt, sampling = "What is the capital of France?", Sampling(temperature=0, max_tokens=24)
        async with llama.stream(prompt, sampling=sampling) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    print(event.text, end="", flush=True)
                elif isinstance(event, Switched):
                    print(f" [{event.backend}: {event.reason}] ", end="")
        print(f"\n{stream.snapshot.text!r}, {stream.snapshot.usage.completion_tokens} tokens")


if __name__ == "__main__":
    asyncio.run(main())
