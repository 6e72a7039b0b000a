"""Shared by the tests of the remote backend: how to ask one question and look at what came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import hypothesis
import pytest

from llama4_http import HttpBackend
from llama4sdk.errors import LlamaError
from llama4sdk.events import Event
from llama4sdk.messages import Prompt, conversation
from llama4sdk.reply import Reply, ReplyBuilder
from llama4sdk.request import Deadlines, Request

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("http", deadline=None)
hypothesis.settings.load_profile("http")


@dataclass
class Outcome:
    """What one request gave: its events, and the error that ended it, if one did."""

    events: list[Event] = field(default_factory=list[Event])
    error: LlamaError | None = None

    @property
    def reply(self) -> Reply:
        builder = ReplyBuilder()
        for event in self.events:
            builder.add(event)
        return builder.snapshot()


Ask = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def ask() -> Ask:
    """Send one request and take everything down, the error too."""

    async def ask(backend: HttpBackend, prompt: Prompt | Request = "Hello!", **deadlines: float) -> Outcome:
        request = prompt if isinstance(prompt, Request) else _request(prompt, deadlines)
        outcome = Outcome()
        try:
            async with backend.open(request) as events:
                async for event in events:
                    outcome.events.append(event)
        except LlamaError as error:
            outcome.error = error
        return outcome

    return ask


def _request(prompt: Prompt, deadlines: dict[str, float]) -> Request:
    return Request(conversation(prompt), deadlines=Deadlines(**deadlines))
