"""Answers as objects: drawn live while they are written, checked at the end.

Run it with: `python examples/typed_answers.py` (rich draws the table: pip install rich)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel
from rich.console import Console
from rich.live import Live
from rich.table import Table

from llama4sdk import Llama4, OutputInvalid, Partial, Sampling


class Person(BaseModel):
    """Someone in a text."""

    name: str
    age: int
    city: str


def drawn(fields: Mapping[str, Any]) -> Table:
    """Draw what is known by now."""
    table = Table("field", "value")
    for name in Person.model_fields:
        table.add_row(name, str(fields.get(name, "…")))
    return table


async def live(llama: Llama4, text: str, console: Console) -> Person | None:
    """Read a person out of a text, and draw each part as soon as it is closed."""
    with Live(drawn({}), console=console) as view:
        async with llama.stream(text, output=Person, sampling=Sampling(max_tokens=200)) as stream:
            async for event in stream:
                match event:
                    case Partial(value=Person() as person):
                        view.update(drawn(person.model_dump()))
                    case Partial(value=dict() as fields):
                        view.update(drawn(fields))
                    case _:
                        pass
    return stream.snapshot.output


async def main(console: Console | None = None) -> None:
    """Read a person out of a sentence, then judge another one."""
    console = console or Console()
    async with Llama4(guards=None if "--no-guards" in sys.argv else "auto") as llama:
        try:
            person = await live(llama, "Ada is 36 years old and lives in London.", console)
            console.print(person)
            reply = await llama.chat(
                "The capital of France is Paris. True or false?",
                output=Literal["true", "false"],
                sampling=Sampling(max_tokens=20),
                repair=1,
            )
            console.print(reply.output)
        except OutputInvalid as error:
            console.print(f"[red]{error}[/red]\n{error.raw}")


if __name__ == "__main__":
    asyncio.run(main())
