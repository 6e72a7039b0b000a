"""Sessions: conversations that stay computed, so that each question costs only what is new in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from llama4sdk.backend import Backend, KeepsSessions, KeptSession
from llama4sdk.errors import InvalidRequest
from llama4sdk.output import answer_form
from llama4sdk.request import Deadlines, Request, Sampling, ToolChoice, ToolSpec
from llama4sdk.stream import Stream

if TYPE_CHECKING:
    import re
    from types import TracebackType

    from typing_extensions import TypeForm

    from llama4sdk.messages import Prompt
    from llama4sdk.options import T, TurnOptions
    from llama4sdk.production import Production
    from llama4sdk.reply import Reply
    from llama4sdk.telemetry.hook import Telemetry


class Session:
    """A conversation that stays computed; made by `Llama4.session` and `Llama4.restore`.

        async with await llama.session([system, long_document]) as session:
            async with await session.fork() as aside:
                print(await aside.chat("Which names occur?"))
            print(await session.chat("What is it about?"))
            await session.save("read.session")

    A question brings only what is new; when it is answered, it and its answer belong to the session. One that
    fails or is left early leaves the session as it was. One question at a time: for more at once, `fork`.
    A session takes room in the backend's cache until it is closed.

    Args:
        kept: What the backend keeps.
        tools: The tools that the opening declared.
        telemetry: Observes the turns.
        owner: The client's running streams.
    """

    def __init__(
        self,
        kept: KeptSession,
        tools: tuple[ToolSpec, ...] = (),
        telemetry: Telemetry | None = None,
        owner: set[Production[Any]] | None = None,
    ) -> None:
        self._kept = kept
        self._tools = tools
        self._telemetry = telemetry
        self._owner: set[Production[Any]] = set() if owner is None else owner
        self._id = os.urandom(16).hex()

    @property
    def id(self) -> str:
        """Its name in traces, as long as it is open; a fork has its own."""
        return self._id

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return self._kept.tokens

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        """The tools that the model was told of."""
        return self._tools

    @overload
    def stream(self, prompt: Prompt, *, output: None = None, **options: Unpack[TurnOptions]) -> Stream[None]: ...
    @overload
    def stream(self, prompt: Prompt, *, output: TypeForm[T], **options: Unpack[TurnOptions]) -> Stream[T]: ...
    @overload
    def stream(self, prompt: Prompt, *, output: re.Pattern[str], **options: Unpack[TurnOptions]) -> Stream[str]: ...
    @overload
    def stream(self, prompt: Prompt, *, output: object, **options: Unpack[TurnOptions]) -> Stream[Any]: ...
    def stream(
        self,
        prompt: Prompt,
        *,
        tool_choice: ToolChoice = "auto",
        output: object = None,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
        priority: int = 0,
    ) -> Stream[Any]:
        """Return the next question as a stream, to be entered with `async with`.

        Args:
            prompt: What is new: a string, a user message, or the results of the tools that the last answer called.
            tool_choice: As in `Llama4.stream`, of the session's tools.
            output: The form of a typed answer. An answer that does not fit it stays part of the session.
            sampling: How tokens are chosen.
            deadlines: How long each phase may take.
            priority: Larger goes first where the backend queues.

        Raises:
            InvalidRequest: When the question cannot be asked as it stands; when the stream is read, where the
                session is closed or being answered.
        """
        form = answer_form(output)
        request = Request.of(
            prompt,
            tools=self._tools,
            tool_choice=tool_choice,
            output=form and form.spec,
            sampling=sampling,
            deadlines=deadlines,
            priority=priority,
            part="turn",
        )
        return Stream(self._kept, request, form=form, owner=self._owner, telemetry=self._telemetry, session=self._id)

    @overload
    async def chat(self, prompt: Prompt, *, output: None = None, **options: Unpack[TurnOptions]) -> Reply[None]: ...
    @overload
    async def chat(self, prompt: Prompt, *, output: TypeForm[T], **options: Unpack[TurnOptions]) -> Reply[T]: ...
    @overload
    async def chat(self, prompt: Prompt, *, output: re.Pattern[str], **options: Unpack[TurnOptions]) -> Reply[str]: ...
    @overload
    async def chat(self, prompt: Prompt, *, output: object, **options: Unpack[TurnOptions]) -> Reply[Any]: ...
    async def chat(
        self,
        prompt: Prompt,
        *,
        tool_choice: ToolChoice = "auto",
        output: object = None,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
        priority: int = 0,
    ) -> Reply[Any]:
        """Ask the next question, and wait for the whole reply; arguments as in `stream`.

        Raises:
            OutputInvalid: When the answer is complete and does not fit the type that was asked for.
            LlamaError: When the request fails.
        """
        stream = self.stream(
            prompt,
            tool_choice=tool_choice,
            output=output,
            sampling=sampling,
            deadlines=deadlines,
            priority=priority,
        )
        async with stream:
            return await stream.result()

    async def fork(self) -> Session:
        """Return a second session that was the same so far; the two share what is computed.

        Raises:
            InvalidRequest: The session is closed, or being answered.
        """
        return Session(await self._kept.fork(), self._tools, self._telemetry, self._owner)

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file, complete or not at all, for `Llama4.restore`.

        The file holds everything that was said, as tokens: keep it as private as the conversation.

        Raises:
            CheckpointError: The file cannot be written.
            InvalidRequest: The session is closed, or being answered.
        """
        await self._kept.save(path)

    async def aclose(self) -> None:
        """Let go of what is kept; may be called twice, and after the client was closed."""
        await self._kept.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Session of {self.tokens} tokens>"


def keeping_sessions(backend: Backend) -> KeepsSessions:
    """Return the backend as one that keeps sessions.

    Raises:
        InvalidRequest: It is none.
    """
    if not isinstance(backend, KeepsSessions):
        raise InvalidRequest(
            f"Sessions are not supported by the backend {backend.capabilities.name!r}: send it the whole conversation "
            "with chat() or stream(), or use a backend that keeps them, such as Llama4('local').",
            backend=backend.capabilities.name,
        )
    return backend
