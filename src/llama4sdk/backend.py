"""The seam: what an application needs of whatever runs the model. The page a plugin author reads.

A backend takes requests made of messages and answers with events. What every backend promises, and
`llama4sdk.testing.conformance` checks against any of them:

- one `Started` first, one `Done` last; text deltas concatenate to the reply and never cut a character;
- leaving the block early stops the generation behind it and frees what it held;
- deadlines hold by phase (wrap the events in `keep_deadlines`);
- a failure is one `LlamaError`, never a truncated success; cancellation is never wrapped;
- two requests do not see each other; the same seed gives the same text;
- after `aclose()` no task, thread, socket or file remains.

Text is emitted as the model wrote it. Tool calls and typed output are read out of it above the seam, by
one reader for all backends; a server that already parsed its calls may emit them as events instead.
Guards, fallback, limits and recording are wrappers: a backend that holds a backend.

More protocols are optional, and asked for where they are needed: `Renders` for prompts to be shown and counted,
`KeepsSessions` for `Llama4.session`, `ScoresPrompts` and `ReportsLoad` for the server, `BecomesReady` for
`Llama4.ready`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeAlias, runtime_checkable

import anyio

from llama4sdk.deadline_clock import Clock
from llama4sdk.errors import InvalidRequest
from llama4sdk.events import Done, Event, Progress, Started, Switched, TokenLogprob, Usage, UsageUpdate

if TYPE_CHECKING:
    import os
    from contextlib import AbstractAsyncContextManager

    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.request import Deadlines, RawPrompt, Request

Continues: TypeAlias = Literal["nothing", "text", "everything"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The features of a backend; None where a feature is unknown.

    Args:
        name: The backend's name, for errors and logs.
        model: The model's name.
        context: Tokens that prompt and answer may take together.
        max_images: Most images in one request.
        vision: Whether it takes images at all.
        tools: Whether the model is told of tools.
        parses_tool_calls: Whether it emits tool calls as events rather than as text.
        structured_output: Whether it makes the answer keep to a JSON schema while it is written.
        seed: Whether the same seed gives the same text to a request that runs alone.
        logprobs: Whether it reports log-probabilities.
        sessions: Whether it can keep, fork and save a prompt's state.
        raw_prompts: Whether it completes prompts without a template (`Request.raw`).
        continues: Which answers it continues behind a request's `answer_so_far`: `nothing`, free `text` only, or
            `everything`, answers that must keep to a form too.
        server: Host and port of the server that answers; None for a backend in this process, or one of several.
        batch_invariant: Whether it does so in any company: an answer is the same whatever else runs beside it.
        guards: Names of the guards in front of the model.
    """

    name: str
    model: str = ""
    context: int | None = None
    max_images: int | None = None
    vision: bool = True
    tools: bool = True
    parses_tool_calls: bool = False
    structured_output: bool = False
    seed: bool = False
    logprobs: bool = False
    sessions: bool = False
    raw_prompts: bool = False
    continues: Continues = "nothing"
    server: tuple[str, int] | None = None
    batch_invariant: bool = False
    guards: tuple[str, ...] | None = None

    def can_continue(self, request: Request) -> bool:
        """Return whether it continues an answer to this request."""
        return self.continues == "everything" or (self.continues == "text" and request.output is None)


class Answers(Protocol):
    """Whatever answers requests: a backend, or a session of one."""

    @property
    def capabilities(self) -> Capabilities:
        """Its capabilities; more may be known after `start()`."""
        ...

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Return a block within which the request runs and yields its events.

        Leaving the block, by its end, by an exception or by cancellation, stops what runs behind it.
        """
        ...

    async def aclose(self) -> None:
        """Stop everything and free everything; may be called twice."""
        ...


@runtime_checkable
class Backend(Answers, Protocol):
    """Whatever runs the model: in this process, behind a server, or around another backend."""

    async def start(self) -> None:
        """Check what can be checked at once, and begin to load; called once, before `open`.

        Raises:
            LlamaError: When the backend can never serve.
        """
        ...


@runtime_checkable
class KeepsDeadlines(Protocol):
    """Events of a request that keep its deadlines; optional. Once they answer, wrappers set no timers around them."""

    @property
    def kept_deadlines(self) -> Deadlines:
        """The deadlines that they keep."""
        ...


@runtime_checkable
class Metered(Protocol):
    """A request's block that tells at any time how many tokens the request took; optional."""

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt, and those of the answer so far."""
        ...


class KeptSession(Answers, Protocol):
    """A conversation that a backend keeps computed; each request brings only what is new, one at a time.

    When a request is done, its messages and the answer belong to the session; one that fails or is left early
    leaves the session as it was.
    """

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        ...

    async def fork(self) -> Self:
        """Return a second session that was the same so far.

        Raises:
            InvalidRequest: It is closed, or being answered.
        """
        ...

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, complete or not at all.

        Raises:
            CheckpointError: The file cannot be written.
            InvalidRequest: It is closed, or being answered.
        """
        ...


@runtime_checkable
class KeepsSessions(Protocol):
    """A backend that can also keep what it computed of a conversation, to go on from, fork and save."""

    async def session(self, request: Request) -> KeptSession:
        """Compute the messages of a request whose `part` is `opening`, and return what keeps them."""
        ...

    async def restore(self, path: str | os.PathLike[str]) -> KeptSession:
        """Return the session that was saved to a file.

        Raises:
            CheckpointError: The file cannot be read, or belongs to another model.
        """
        ...


@runtime_checkable
class ScoresPrompts(Protocol):
    """A backend that can tell how probable a given text is; optional."""

    async def score_prompt(self, raw: RawPrompt, *, top: int = 0) -> tuple[TokenLogprob, ...]:
        """Return the log-probability of every token of a prompt after those before it.

        Args:
            raw: The prompt, as in `Request.raw`.
            top: How many of the most probable tokens are listed at each position, 0 to 20.

        Returns:
            One entry for each token. Of the first token nothing is known: its `logprob` is NaN.

        Raises:
            LlamaError: The prompt cannot be scored.
        """
        ...


@dataclass(frozen=True, slots=True)
class BackendLoad:
    """The load of a backend at one moment.

    Args:
        ready: Whether the model is loaded, so that a request is answered at once.
        running: Requests that run.
        waiting: Requests in the queue.
        pages: Cache pages in use, by pool.
    """

    ready: bool
    running: int = 0
    waiting: int = 0
    pages: Mapping[str, int] = field(default_factory=dict[str, int])


@runtime_checkable
class ReportsLoad(Protocol):
    """A backend that reports its load, for readiness and metrics; optional."""

    @property
    def current_load(self) -> BackendLoad | None:
        """Its load now; None where it is unknown, as in a wrapper around servers."""
        ...


@runtime_checkable
class CountsRunning(Protocol):
    """A backend in front of a server that tells how much it runs; optional."""

    async def requests_running(self) -> int | None:
        """Return how many requests the server runs now, those of others too; None where it does not tell.

        Raises:
            LlamaError: The server cannot be asked.
        """
        ...


@runtime_checkable
class BecomesReady(Protocol):
    """A backend that loads a model after its start; optional."""

    async def ready(self) -> None:
        """Wait until the model is loaded.

        Raises:
            LlamaError: When it cannot be loaded.
        """
        ...


@runtime_checkable
class Renders(Protocol):
    """A backend that knows its model's tokenizer, and can therefore show and count prompts."""

    @property
    def prompt_template(self) -> PromptTemplate:
        """The model's template; raises `InvalidRequest` where it has none."""
        ...


def template_of(backend: object) -> PromptTemplate | None:
    """Return a backend's template; None where it has none, or was not given the tokenizer for it."""
    try:  # isinstance() reads the property, up to Python 3.11
        return backend.prompt_template if isinstance(backend, Renders) else None
    except InvalidRequest:
        return None


class keep_deadlines(AsyncIterator[Event]):  # noqa: N801 - reads as the verb it is
    """Pass events on, and raise `DeadlineExceeded` when a phase takes too long.

    The clock starts when this object is made, so make it before the work begins. `first_token` runs
    until the first event that is the model's own (not `Started`, `Progress`, `Switched` or usage),
    `idle` from one event to the next after that, `total` over everything.

    Args:
        events: Where the events come from.
        deadlines: Seconds for each phase.
        backend: The backend's name, for the error.
        request_id: The request's name, for the error.
        loading: Whether the model is still being loaded; `first_token` runs only from the first event after that.
    """

    def __init__(
        self,
        events: AsyncIterator[Event],
        deadlines: Deadlines,
        *,
        backend: str,
        request_id: str,
        loading: Callable[[], bool] = lambda: False,
    ) -> None:
        self._events = events
        self._loading = loading
        self._held = loading()
        self._names = (backend, request_id)
        self._clock = Clock(deadlines, anyio.current_time())
        self.kept_deadlines = deadlines
        self._over = False

    def __aiter__(self) -> keep_deadlines:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        now = anyio.current_time()
        if self._held and not self._loading():
            self._held = False
            self._clock.begin_first_token(now)
        phase, until = self._clock.limit(now, held=self._held)
        with anyio.CancelScope(deadline=until) as scope:
            event = await self._events.__anext__()
            self._clock.answering |= not isinstance(event, Started | Progress | Switched | UsageUpdate)
            self._over = isinstance(event, Done)
            return event
        if scope.cancelled_caught:
            error = self._clock.exceeded(phase)
            error.backend, error.request_id = self._names
            raise error
        raise StopAsyncIteration  # not reached: the block above returns or is cut
