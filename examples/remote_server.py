"""A remote server: one answer, a stream with deadlines, and a fault, against a loopback server.

python examples/remote_server.py                                 # starts a server of its own
python examples/remote_server.py http://127.0.0.1:8000/v1 my-model # asks yours

With `--no-guards` no guards check the turns.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from llama4_http import HttpBackend
from llama4sdk import Deadlines, Llama4, LlamaError
from llama4sdk.testing.faults import FaultServer

GUARDS: Final = None if "--no-guards" in sys.argv else "auto"


async def talk(url: str, model: str | None) -> None:
    """Ask once, then stream with a deadline for every phase."""
    async with Llama4(HttpBackend(url, model=model), guards=GUARDS) as llama:
        reply = await llama.chat("Hello! Who are you?")
        print(reply.text, f"({reply.usage.total_tokens} tokens)")
        patience = Deadlines(connect=5, first_token=60, idle=20, total=300)
        async with llama.stream("Count from 1 to 10.", deadlines=patience) as stream:
            async for text in stream.text():
                print(text, end="", flush=True)
        print()


async def stumble(server: FaultServer) -> None:
    """See what is left when a connection breaks in the middle of an answer."""
    async with Llama4(HttpBackend(server.url_for("reset_mid_stream"), model="faults"), guards=GUARDS) as llama:
        try:
            await llama.chat("Hello!")
        except LlamaError as error:
            partial = getattr(error, "partial", None)
            print(f"{type(error).__name__}: {error} Until then: {partial.text if partial else ''!r}")


async def main(arguments: list[str]) -> None:
    """Talk to the named server, or to one that is started here."""
    if arguments:
        await talk(arguments[0], arguments[1] if len(arguments) > 1 else None)
        return
    async with FaultServer() as server:
        await talk(server.url, None)
        await stumble(server)


if __name__ == "__main__":
    asyncio.run(main([each for each in sys.argv[1:] if each != "--no-guards"]))
