"""Requests of the SDK, run for one HTTP request: their replies, or their events as they come."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import anyio
from pydantic_core import from_json

from llama4sdk.errors import StreamInterrupted
from llama4sdk.events import Done, GuardFlag, Progress, Started, Switched, TextDelta, ToolCallReady, Usage, UsageUpdate
from llama4sdk.server.answer_events import AnswerEvents
from llama4sdk.server.chunks import DONE, usage_chunk
from llama4sdk.server.filtered import FilteredStream
from llama4sdk.server.metrics import AnswerClock
from llama4sdk.server.whole import together

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from llama4sdk.events import Event, TokenLogprob
    from llama4sdk.reply import Reply
    from llama4sdk.request import Request
    from llama4sdk.server.chunks import Chunks, Head
    from llama4sdk.server.event_stream import EventStream
    from llama4sdk.server.serving import Serving


async def replies_to(serving: Serving, requests: Sequence[Request]) -> list[Reply]:
    """Return the replies to requests that run at the same time.

    Raises:
        LlamaError: One of them fails; the others are stopped.
    """
    replies: dict[int, Reply] = {}

    async def ask(index: int, request: Request) -> None:
        clock = AnswerClock(serving.metrics)
        async with FilteredStream(serving.answers, request, telemetry=serving.llama.telemetry) as stream:
            try:
                async for event in stream:
                    clock.saw(event)
            finally:
                clock.left(stream.snapshot.usage)
            replies[index] = stream.snapshot

    await all_of([partial(ask, index, request) for index, request in enumerate(requests)])
    return [replies[index] for index in range(len(requests))]


async def stream_answers(
    serving: Serving,
    out: EventStream,
    requests: Sequence[Request],
    chunks: Sequence[Chunks],
    head: Head,
    *,
    counted: bool = False,
    answers_per_prompt: int = 1,
    one_call: bool = False,
    unquoted: bool = False,
) -> None:
    """Write the answers to requests that run at the same time, as they come.

    Args:
        serving: The server.
        out: Where to.
        requests: The requests.
        chunks: The writer of each answer.
        head: Begins the chunk of the token counts.
        counted: Whether there is one.
        answers_per_prompt: Answers that share a prompt, which is counted once.
        one_call: Whether only the first tool call of an answer counts.
        unquoted: Whether each answer is a JSON string, to be written as text.

    Raises:
        LlamaError: One of them fails; the others are stopped.
    """
    usages = [Usage() for _ in requests]

    async def write(index: int) -> None:
        clock = AnswerClock(serving.metrics)
        writer = _Writer(chunks[index], one_call=one_call, unquoted=unquoted)
        answering = AnswerEvents(serving.answers, requests[index], serving.llama.telemetry)
        async with answering as answer, aclosing(answer.events()) as events:
            try:
                async for event in events:
                    clock.saw(event)
                    data = writer.add(event)
                    if data:
                        await out.write(data)
            finally:
                clock.left(answer.usage)
            usages[index] = answer.usage

    await all_of([partial(write, index) for index in range(len(requests))])
    total = usage_chunk(head, together(usages, answers_per_prompt=answers_per_prompt)) if counted else b""
    await out.write(total + DONE)
    await out.end()


async def all_of(works: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run functions at the same time; the first error stops the others and is raised alone."""
    if len(works) == 1:
        await works[0]()
        return
    try:
        async with anyio.create_task_group() as tasks:
            for work in works:
                tasks.start_soon(work)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


class _Writer:
    """Turns the events of one answer into bytes.

    Args:
        chunks: Writes its chunks.
        one_call: Whether only the first tool call counts.
        unquoted: Whether the answer is a JSON string, to be written as text.
    """

    def __init__(self, chunks: Chunks, *, one_call: bool, unquoted: bool) -> None:
        self._chunks = chunks
        self._most_calls = 1 if one_call else None
        self._held: list[str] | None = [] if unquoted else None
        self._held_logprobs: list[TokenLogprob] = []
        self._calls = 0
        self._begun = False

    def add(self, event: Event) -> bytes:
        """Return what an event is on the wire; nothing for many.

        Raises:
            StreamInterrupted: Text that was written already is withdrawn.
        """
        match event:
            case TextDelta():
                if self._held is not None:
                    self._held.append(event.text)
                    self._held_logprobs += event.logprobs
                    return self._opening()
                return self._opening() + self._chunks.text(event)
            case ToolCallReady():
                if self._calls == self._most_calls:
                    return b""
                self._calls += 1
                return self._opening() + self._chunks.call(event.call, self._calls - 1)
            case Switched(withdrawn=True) if self._begun:
                raise StreamInterrupted("The backend began its answer anew after a part of it was sent; ask again.")
            case Done():
                return self._opening() + self._whole_text() + self._chunks.finish(event.finish_reason)
            case _:
                return b"" if isinstance(event, _BEFORE_THE_ANSWER) else self._opening()

    def _opening(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._chunks.begin()

    def _whole_text(self) -> bytes:
        if self._held is None:
            return b""
        return self._chunks.text(TextDelta(unquote("".join(self._held)), tuple(self._held_logprobs)))


_BEFORE_THE_ANSWER = (Started, Progress, Switched, UsageUpdate, GuardFlag)


def unquote(text: str) -> str:
    """Return the text of a JSON string; of anything else, as of an answer that was cut, the text itself."""
    try:
        value = from_json(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text
