"""How the tests of the remote backend ask one question and look at all that came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama4sdk.errors import LlamaError
from llama4sdk.events import Event
from llama4sdk.messages import Prompt, conversation
from llama4sdk.reply import Reply, ReplyBuilder
from llama4sdk.request import Deadlines, Request

if TYPE_CHECKING:
    from llama4sdk.backend import Backend


@dataclass
class Outcome:
    """What one request gave: its events, and the error that ended it, if one did."""

    events: list[Event] = field(default_factory=list[Event])
    error: LlamaError | None = None

    @property
    def reply(self) -> Reply:
        """What the events add up to."""
        builder = ReplyBuilder()
        for event in self.events:
            builder.add(event)
        return builder.snapshot()


async def ask(backend: Backend, prompt: Prompt | Request = "Hello!", **deadlines: float) -> Outcome:
    """Send one request and take everything down, the error too."""
    if not isinstance(prompt, Request):
        prompt = Request(conversation(prompt), deadlines=Deadlines(**deadlines))
    outcome = Outcome()
    try:
        async with backend.open(prompt) as events:
            async for event in events:
                outcome.events.append(event)
    except LlamaError as error:
        outcome.error = error
    return outcome
