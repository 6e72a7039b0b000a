"""The types of typed answers, as type checkers see them; `test_typing.py` runs mypy and pyright over it.

Each comment behind a `reveal_type` is the type that both must reveal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, reveal_type

from pydantic import BaseModel

from llama4sdk import Llama4, OutputSpec, Reply, Run, Session, Stream
from llama4sdk.bulk import Answered, Bulk, Failed, Outcome


class Person(BaseModel):
    name: str


@dataclass
class Point:
    x: int


class Row(TypedDict):
    cell: int


def add(a: int, b: int) -> int:
    return a + b


async def of_chat(llama: Llama4) -> None:
    reveal_type((await llama.chat("")).output)  # None
    reveal_type(await llama.chat("", output=Person))  # Reply[Person]
    reveal_type((await llama.chat("", output=Person, repair=1)).output.name)  # str
    reveal_type((await llama.chat("", output=Point)).output)  # Point
    reveal_type((await llama.chat("", output=Row)).output["cell"])  # int
    reveal_type((await llama.chat("", output=list[Person])).output)  # list[Person]
    reveal_type((await llama.chat("", output=dict[str, int])).output)  # dict[str, int]
    reveal_type((await llama.chat("", output=Literal["yes", "no"])).output)  # Literal['yes', 'no']
    reveal_type((await llama.chat("", output=Person | Point)).output)  # Person | Point
    reveal_type((await llama.chat("", output=Person | None)).output)  # Person | None
    reveal_type((await llama.chat("", output=list[Literal[1, 2]])).output)  # list[Literal[1, 2]]
    reveal_type((await llama.chat("", output=int)).output)  # int
    reveal_type((await llama.chat("", output={"type": "object"})).output)  # Any
    reveal_type((await llama.chat("", output=OutputSpec({"type": "object"}))).output)  # Any
    reveal_type((await llama.chat("", output=re.compile("[a-z]+"))).output)  # str
    reveal_type((await llama.chat("", tools=[add], output=Person)).output)  # Person
    reveal_type((await llama.vision("", "a.png")).output)  # None


async def of_kind(llama: Llama4, kind: type[BaseModel], schema: dict[str, Any] | None) -> None:
    reveal_type((await llama.chat("", output=kind)).output)  # BaseModel
    reveal_type((await llama.chat("", output=schema)).output)  # Any


async def of_stream(llama: Llama4) -> None:
    reveal_type(llama.stream(""))  # Stream[None]
    async with llama.stream("", output=list[Row]) as stream:
        reveal_type(stream)  # Stream[list[Row]]
        async for text in stream.text():
            reveal_type(text)  # str
        reveal_type(stream.snapshot.output)  # Any
        reveal_type((await stream.result()).output)  # list[Row]


async def of_run(llama: Llama4) -> None:
    reveal_type((await llama.run("", tools=[add])).output)  # None
    run = await llama.run("", tools=[add], output=Person, max_rounds=3)
    reveal_type(run)  # Run[Person]
    reveal_type(run.reply.output)  # Person
    async with llama.run_stream("", tools=[add], output=Literal["a"]) as running:
        reveal_type((await running.result()).output)  # Literal['a']


async def of_session(llama: Llama4) -> None:
    session = await llama.session("")
    reveal_type(session)  # Session
    reveal_type((await session.chat("")).output)  # None
    reveal_type((await session.chat("", output=Point)).output)  # Point
    reveal_type(session.stream("", output={"type": "string"}))  # Stream[Any]


async def of_map(llama: Llama4) -> None:
    async with llama.map(["a"], output=Person, concurrency=2) as outcomes:
        reveal_type(outcomes)  # Bulk[Person]
        async for outcome in outcomes:
            reveal_type(outcome.result().output)  # Person
            if outcome.ok is True:
                reveal_type(outcome.reply.output)  # Person
            if outcome.error is None:
                reveal_type(outcome.reply.output)  # Person
            else:
                reveal_type(outcome.error.retryable)  # bool
            match outcome:
                case Answered():
                    reveal_type(outcome.reply.output)  # Person
                case Failed():
                    reveal_type(outcome.error.retryable)  # bool
    async with llama.map(["a"]) as plain:
        reveal_type([each.result().output async for each in plain])  # list[None]


def without_arguments(reply: Reply, stream: Stream, run: Run, outcome: Outcome, bulk: Bulk, session: Session) -> None:
    reveal_type(reply.output)  # Any
    reveal_type(run.output)  # Any
    reveal_type(stream)  # Stream[Any]
    reveal_type(outcome.result())  # Reply[Any]
    reveal_type(bulk)  # Bulk[Any]
    reveal_type(session.tokens)  # int


def narrower(reply: Reply[Person]) -> Reply[BaseModel]:
    return reply
