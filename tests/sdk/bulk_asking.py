"""A client for bulk work, and how its outcomes are collected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio.lowlevel

from llama4sdk import Capabilities, Deadlines, Reply, Sampling, Usage
from llama4sdk.bulk import Bulk, Outcome
from llama4sdk.messages import Prompt, conversation

Main: TypeAlias = Callable[[], Awaitable[None]]


class Client:
    """A client whose answers a test makes with an async function of the prompt's text."""

    def __init__(self, answer: Callable[[str], Awaitable[str]]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.deadlines: list[Deadlines | None] = []
        self.running = self.most = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("client", "model")

    async def chat(
        self,
        prompt: Prompt,
        *,
        output: object = None,
        repair: int = 0,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
    ) -> Reply:
        text = conversation(prompt)[-1].text
        self.asked.append(text)
        self.deadlines.append(deadlines)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return Reply(await self.answer(text), finish_reason="stop", usage=Usage(1, 2))
        finally:
            self.running -= 1


async def same(text: str) -> str:
    await anyio.lowlevel.checkpoint()
    return text


async def all_of(work: Bulk) -> list[Outcome]:
    async with work as outcomes:
        return [outcome async for outcome in outcomes]


def texts(outcomes: list[Outcome]) -> list[str]:
    return [outcome.result().text for outcome in outcomes]
