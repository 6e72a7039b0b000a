"""Two tools, and runs over scripted answers."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
from pydantic import BaseModel

from llama4sdk import (
    Llama4,
    ToolMessage,
)
from llama4sdk.run import Run
from tools.written import Writes


class City(BaseModel):
    name: str
    people: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def weather(city: str) -> dict[str, Any]:
    """Get the weather."""
    await anyio.lowlevel.checkpoint()
    return {"city": city, "degrees": 21}


async def run(*answers: Any, tools: list[Any], **options: Any) -> Run:
    async with Llama4(Writes(*answers)) as llama:
        return await llama.run("?", tools=tools, **options)


def results(run: Run) -> list[str]:
    return [message.text for message in run.messages if isinstance(message, ToolMessage)]
