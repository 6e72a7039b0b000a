"""Functions that the model may call: declared, approved, run side by side, and the run watched as it goes.

Run it with: `python examples/tools.py`
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

from llama4sdk import Llama4, TextDelta, ToolCall
from llama4sdk.run import ToolBegun, ToolEnded
from llama4sdk.tools import tool


async def get_weather(city: str) -> dict[str, str | int]:
    """Get the weather of a city.

    Args:
        city: The city.
    """
    await asyncio.sleep(0.1)  # a real one would ask a server
    return {"sky": "sunny", "temperature": 15 + len(city)}


@tool(timeout=5)
def convert_currency(amount: float, source: str, target: Annotated[str, "The currency to convert into."]) -> str:
    """Convert money from one currency to another."""
    rates = {"EUR": 1.0, "USD": 1.1, "GBP": 0.85}
    return f"{amount / rates[source] * rates[target]:.2f} {target}"


def send_message(person: str, text: str) -> str:
    """Send a text message to a person."""
    return f"sent to {person}: {text}"


def approve(call: ToolCall) -> bool | str:
    """Let everything pass but messages."""
    return "not allowed" if call.name == "send_message" else True


async def watch(llama: Llama4, question: str) -> None:
    """Print what happens while the question is answered."""
    print(f"\nyou   {question}")
    tools = [get_weather, convert_currency, send_message]
    async with llama.run_stream(question, tools=tools, approve=approve, max_rounds=4) as running:
        async for event in running:
            match event:
                case ToolBegun(call=call):
                    print(f"      {call.name} {call.arguments}")
                case ToolEnded(result=result):
                    print(f"      → {result.error or result.content}")
                case TextDelta(text=text):
                    print(text, end="", flush=True)
                case _:
                    pass
        run = await running.result()
    print(f"\n      ({run.rounds} rounds, {run.usage.total_tokens} tokens, {run.stopped})")


async def main() -> None:
    """Ask a few questions."""
    async with Llama4(guards=None if "--no-guards" in sys.argv else "auto") as llama:
        await watch(llama, "What is the weather in Paris and in Rome?")
        await watch(llama, "Convert 25 EUR to USD.")
        await watch(llama, 'Send Ada the message "see you soon".')


if __name__ == "__main__":
    asyncio.run(main())
