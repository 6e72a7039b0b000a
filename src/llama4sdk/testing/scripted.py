"""A backend that answers from a script: for the tests of applications, and of this SDK."""

from __future__ import annotations

import math
import re
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import anyio

from llama4sdk.backend import Capabilities, keep_deadlines
from llama4sdk.errors import ContextOverflow, LlamaError, ServerFault
from llama4sdk.events import Done, Event, FinishReason, Started, TextDelta, ToolCallReady, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence

    from llama4sdk.request import Request

# What may stand in an answer: text (sent word by word), seconds to wait, an event, or an error to raise.
Step: TypeAlias = str | float | Event | LlamaError
Answer: TypeAlias = "str | Sequence[Step] | Callable[[Request], str | Sequence[Step]]"

_WORD = re.compile(r"\s*\S+|\s+$")


class ScriptedBackend:
    """Answers each request with the next answer of a script; the last one is repeated.

        backend = ScriptedBackend("Hello!", [0.5, "late"], lambda request: request.messages[-1].text)

    A word counts as one token, of the prompt's text as of the answer; `max_tokens` and `stop` are kept. Where a request
    brings the beginning of its answer, the answer goes on behind those words if it begins with them; else it follows.

    Args:
        answers: What to say: a string, a sequence of steps (text, seconds, events, errors), or a function
            of the request that returns either. Without any, the last message's text is repeated.
        pause: Seconds before each word.
        context: Words that prompt and answer may have together.
    """

    def __init__(self, *answers: Answer, pause: float = 0.0, context: int = 100_000) -> None:
        self._answers = answers or (_echo,)
        self._pause = pause
        self._context = context
        self._running = 0
        self._closed = anyio.Event()
        self.requests: list[Request] = []
        """Every request so far, in order."""

    @property
    def capabilities(self) -> Capabilities:
        """Those of a script: it repeats itself, and takes any number of images."""
        return Capabilities(
            "scripted", "script", context=self._context, parses_tool_calls=True, seed=True, continues="everything"
        )

    @property
    def running(self) -> int:
        """Requests that run now."""
        return self._running

    async def start(self) -> None:
        """Do nothing: a script needs no start."""

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run one request; see `Backend.open`."""
        return self._run(request)

    async def aclose(self) -> None:
        """Let no further request in, and end those that run."""
        self._closed.set()

    @asynccontextmanager
    async def _run(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        if self._closed.is_set():
            raise ServerFault("This scripted backend is closed.", backend="scripted", retryable=False)
        answer = self._answers[min(len(self.requests), len(self._answers) - 1)]
        self.requests.append(request)
        self._running += 1
        try:
            async with aclosing(self._events(request, answer)) as events:
                yield keep_deadlines(events, request.deadlines, backend="scripted", request_id=request.request_id)
        finally:
            self._running -= 1

    async def _events(self, request: Request, answer: Answer) -> AsyncGenerator[Event]:
        await anyio.lowlevel.checkpoint()
        prompt = sum(_count(message.text) for message in request.messages) + _count(request.answer_so_far)
        if prompt > self._context:
            raise ContextOverflow(
                f"The prompt has {prompt} tokens, the context holds {self._context}; shorten the conversation.",
                prompt_tokens=prompt,
                limit=self._context,
            )
        yield Started(request.request_id, "scripted", "script")
        reason: FinishReason = "stop"
        written = 0
        limit = min(request.sampling.max_tokens or math.inf, self._context - prompt)
        for step in _steps(answer, request):
            if self._closed.is_set():
                raise ServerFault("The scripted backend was closed while it answered.", retryable=False)
            match step:
                case LlamaError():
                    raise step
                case Done():
                    yield step
                    return
                case str():
                    await anyio.sleep(self._pause)
                    if written >= limit:
                        reason = "length"
                        break
                    written += 1
                    yield TextDelta(step)
                case int() | float():
                    await anyio.sleep(step)
                case _:
                    reason = "tool_calls" if isinstance(step, ToolCallReady) else reason
                    yield step
        yield Done(reason, Usage(prompt, written))


def _echo(request: Request) -> str:
    return request.messages[-1].text


def _count(text: str) -> int:
    return len(_WORD.findall(text))


def _steps(answer: Answer, request: Request) -> Iterator[Step]:
    chosen = answer(request) if callable(answer) else answer
    steps: Iterable[Step] = (chosen,) if isinstance(chosen, str) else chosen
    steps = _behind(request.answer_so_far, tuple(steps)) if request.answer_so_far else steps
    stops = request.sampling.stop_strings
    for step in steps:
        if not isinstance(step, str):
            yield step
            continue
        ends = [at for at in (step.find(stop) for stop in stops) if at >= 0]
        yield from _WORD.findall(step[: min(ends)] if ends else step)
        if ends:
            return


def _behind(begun: str, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps behind an answer's beginning; all of them where the answer does not begin so."""
    left = begun
    for place, step in enumerate(steps):
        if not isinstance(step, str):
            continue
        if step.startswith(left):
            return (step[len(left) :], *steps[place + 1 :])
        if not left.startswith(step):
            break
        left = left[len(step) :]
    return steps
