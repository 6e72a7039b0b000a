"""Sessions: read once, ask often, fork, save, and go on later; with the bundled nano model, offline.

Run it with: `python examples/sessions.py`
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from llama4sdk import AssistantMessage, InvalidRequest, Llama4, Message, Reply, Sampling, UserMessage
from llama4sdk.testing import ScriptedBackend

GUARDS: Final = None if "--no-guards" in sys.argv else "auto"

SAMPLING = Sampling(temperature=0, max_tokens=24)


def dialog() -> list[Message]:
    """Return the dialog that went before."""
    return [
        message
        for n in range(6)
        for message in (UserMessage(f"What is {n} + {n + 3}?"), AssistantMessage(f"{n} + {n + 3} = {2 * n + 3}."))
    ]


def show(question: str, reply: Reply) -> None:
    """Print a question, its answer, and how much of the prompt was there already."""
    usage = reply.usage
    print(f"you   {question}\nnano  {reply.text}  ({usage.cached_tokens} of {usage.prompt_tokens} tokens were kept)")


async def ask_and_save(llama: Llama4, file: Path) -> None:
    """Ask in a session and in a fork of it, and save the session."""
    async with await llama.session(dialog()) as session:
        print(f"a session of {session.tokens} tokens")
        question = "What is 17 + 25?"
        show(question, await session.chat(question, sampling=SAMPLING))
        async with await session.fork() as aside:
            print("aside, in a fork:")
            show("Who are you?", await aside.chat("Who are you?", sampling=SAMPLING))
        await session.save(file)
        print(f"saved {session.tokens} tokens")


async def go_on(llama: Llama4, file: Path) -> None:
    """Go on from a file, as another process would."""
    async with await llama.restore(file) as session:
        print(f"restored {session.tokens} tokens")
        question = "What is 20 + 30?"
        show(question, await session.chat(question, sampling=SAMPLING))


async def elsewhere() -> None:
    """Show the error of a backend without sessions."""
    async with Llama4(ScriptedBackend(), guards=GUARDS) as llama:
        try:
            await llama.session("Hello!")
        except InvalidRequest as error:
            print(f"another backend: {error}")


async def main() -> None:
    """Do all three, with two clients, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dialog.session"
        async with Llama4("local", guards=GUARDS) as llama:
            await ask_and_save(llama, file)
        async with Llama4("local", guards=GUARDS) as llama:
            await go_on(llama, file)
    await elsewhere()


if __name__ == "__main__":
    asyncio.run(main())
