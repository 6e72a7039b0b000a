"""The face: `Llama4`, the one object that an application holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, overload

from llama4sdk.backend import Renders
from llama4sdk.chatting import Chatting
from llama4sdk.errors import InvalidRequest
from llama4sdk.guards.admission import Admission
from llama4sdk.guards.kept import GuardedSession
from llama4sdk.keywords import check_keywords, explains_keywords
from llama4sdk.output import answer_form
from llama4sdk.request import Deadlines, Request, Sampling, ToolChoice
from llama4sdk.run import Run, RunStream, runnable
from llama4sdk.run_options import RunOptions, limits_of
from llama4sdk.session import Session, keeping_sessions
from llama4sdk.tools import ToolLike, specs_of

if TYPE_CHECKING:
    import os
    import re
    from collections.abc import AsyncIterable, Iterable, Sequence

    from typing_extensions import TypeForm

    from llama4sdk.bulk import Bulk
    from llama4sdk.messages import Prompt
    from llama4sdk.options import MapOptions, T
    from llama4sdk.prompting import Rendered, TokenCount

    Prompts: TypeAlias = Iterable[Prompt] | AsyncIterable[Prompt]


class Llama4(Chatting):
    """Talks to Llama 4, wherever it runs.

        async with Llama4() as llama:                      # the bundled nano model, in this process
            reply = await llama.chat("What is 17 + 25?")
            print(reply.text)

    Args:
        backend: A backend, or a string that names one: `local`, `local:/models/scout`,
            `http://127.0.0.1:8000/v1`. Left out, the environment's `LLAMA4_BACKEND`, else `local`.
        guards: Guards around every turn, such as `[LlamaGuard("http://127.0.0.1:8001/v1")]`; None for none. An empty
            list leaves the checks that cost nothing. Left out, those of the environment's `LLAMA4_GUARDS`, if any;
            `auto`: those, else the bundled demonstration, with the warning `GuardsMissing`.
        guard_policy: How the guards are applied; see `GuardPolicy`.
        telemetry: Observes requests, tools and maps, such as `llama4sdk.telemetry.OpenTelemetry()`; None for none.
        options: Handed to the backend that a string names.

    Raises:
        BackendMissing: When no such backend is installed.
        InvalidRequest: When options are given beside a ready backend.
    """

    @overload
    async def run(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: None = None, **options: Unpack[RunOptions]
    ) -> Run[None]: ...
    @overload
    async def run(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: TypeForm[T], **options: Unpack[RunOptions]
    ) -> Run[T]: ...
    @overload
    async def run(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: re.Pattern[str], **options: Unpack[RunOptions]
    ) -> Run[str]: ...
    @overload
    async def run(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: object, **options: Unpack[RunOptions]
    ) -> Run[Any]: ...
    async def run(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: object = None, **options: Unpack[RunOptions]
    ) -> Run[Any]:
        """Answer with the help of tools: run the model's calls and send it the results, until it answers.

        A tool that fails, hangs or is called with bad arguments does not end the run: the model gets an error
        message, without a traceback, and may try something else.

        Args:
            prompt: As in `stream`.
            tools: Functions with typed parameters, sync or async, or results of `llama4sdk.tools.tool`.
            output: The form of the last reply, as in `stream`.
            options: See `RunOptions`.

        Raises:
            InvalidRequest: For tools that cannot be declared or have no function, or limits out of range.
            OutputInvalid: When the last reply does not fit the type that was asked for.
            ToolFailed: When the approve callback fails, or a tool does under `on_tool_error="raise"`.
            LlamaError: When a request fails.
        """
        async with self.run_stream(prompt, tools=tools, output=output, **options) as running:
            return await running.result()

    @overload
    def run_stream(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: None = None, **options: Unpack[RunOptions]
    ) -> RunStream[None]: ...
    @overload
    def run_stream(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: TypeForm[T], **options: Unpack[RunOptions]
    ) -> RunStream[T]: ...
    @overload
    def run_stream(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: re.Pattern[str], **options: Unpack[RunOptions]
    ) -> RunStream[str]: ...
    @overload
    def run_stream(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: object, **options: Unpack[RunOptions]
    ) -> RunStream[Any]: ...
    def run_stream(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: object = None, **options: Unpack[RunOptions]
    ) -> RunStream[Any]:
        """Return a run as a stream of its events, to be entered with `async with`; arguments as in `run`.

        Raises:
            InvalidRequest: As `run`.
        """
        self._check_open()
        check_keywords(options, [*RunOptions.__annotations__, "tools", "output"], "run()")
        form = answer_form(output)
        request = Request.of(
            prompt,
            tools=tuple(tool.spec for tool in runnable(tools).values()),
            output=form and form.spec,
            tool_choice=options.get("tool_choice", "auto"),
            sampling=options.get("sampling"),
            deadlines=options.get("deadlines"),
        )
        return RunStream(
            self.answers,
            request,
            tools,
            limits=limits_of(options),
            approve=options.get("approve"),
            form=form,
            on_tool_error=options.get("on_tool_error", "tell"),
            owner=self._streams,
            telemetry=self._telemetry,
        )

    @explains_keywords
    async def session(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[ToolLike] = (),
        deadlines: Deadlines | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> Session:
        """Compute what a conversation begins with, and return the session that keeps it; nothing is answered yet.

        Args:
            prompt: As in `stream`, but it may end with any message: a system message, a document, a dialog
                with its last answer.
            tools: Tools that the model may call in this session; told once, here.
            deadlines: How long the computing may take.
            priority: Larger goes first where the backend queues.
            cache_salt: Computation is shared only with prompts and sessions of the same salt.

        Raises:
            InvalidRequest: When the backend keeps no sessions, or the prompt cannot be computed.
            LlamaError: When the request fails.
        """
        self._check_open()
        backend = keeping_sessions(self._backend)
        request = Request.of(
            prompt, tools=specs_of(tools), deadlines=deadlines, priority=priority, cache_salt=cache_salt, part="opening"
        )
        if self._guarding is None:
            return Session(await backend.session(request), request.tools, self._telemetry, self._streams)
        request = await Admission(self._guarding, request).admit()
        kept = GuardedSession(await backend.session(request), self._guarding, request.messages)
        return Session(kept, request.tools, self._telemetry, self._streams)

    @explains_keywords
    async def restore(self, path: str | os.PathLike[str], *, tools: Sequence[ToolLike] = ()) -> Session:
        """Return the session that `Session.save` wrote to a file, in this process or another, with the same model.

        Args:
            path: The file.
            tools: Those that the session was opened with; the file does not hold them.

        Raises:
            CheckpointError: The file cannot be read, is no session, or belongs to another checkpoint.
            InvalidRequest: When the backend keeps no sessions, or computes in another dtype.
            Overloaded: The cache has no room for it.
        """
        self._check_open()
        backend = keeping_sessions(self._backend)
        specs = specs_of(tools)
        kept = await backend.restore(path)
        guarded = kept if self._guarding is None else GuardedSession(kept, self._guarding)
        return Session(guarded, specs, self._telemetry, self._streams)

    @overload
    def map(self, prompts: Prompts, *, output: None = None, **options: Unpack[MapOptions]) -> Bulk[None]: ...
    @overload
    def map(self, prompts: Prompts, *, output: TypeForm[T], **options: Unpack[MapOptions]) -> Bulk[T]: ...
    @overload
    def map(self, prompts: Prompts, *, output: re.Pattern[str], **options: Unpack[MapOptions]) -> Bulk[str]: ...
    @overload
    def map(self, prompts: Prompts, *, output: object, **options: Unpack[MapOptions]) -> Bulk[Any]: ...
    @explains_keywords
    def map(
        self,
        prompts: Prompts,
        *,
        concurrency: int = 8,
        ordered: bool = False,
        journal: str | os.PathLike[str] | None = None,
        output: object = None,
        repair: int = 0,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
        retries: int = 2,
        progress: bool | None = None,
    ) -> Bulk[Any]:
        """Ask many prompts, a bounded number at a time; return the work, to be entered with `async with`.

            async with llama.map(prompts, journal="answers.jsonl") as outcomes:
                async for outcome in outcomes:
                    print(outcome.index, outcome.reply or outcome.error)

        One failure never ends the rest: it is that prompt's outcome. A slow reader holds the work up, leaving
        the block cancels what runs.

        Args:
            prompts: An iterable of prompts, endless too, or an async one; read only as far as there is room. A
                plain one is read on the event loop, so one that has to wait should be async. An async generator
                is closed when the block is left.
            concurrency: How many are asked at the same time, 1 to 10,000.
            ordered: Whether outcomes come in the order of the prompts rather than as they finish.
            journal: A file that remembers finished prompts, so that the same call goes on after a crash.
            output: The form of a typed answer, as in `stream`.
            repair: How often an answer that does not fit may be tried again, 0 to 5.
            sampling: How tokens are chosen.
            deadlines: How long each phase may take; `total` spans all tries of one prompt.
            retries: How often a prompt is asked again after an error that may pass, 0 to 10.
            progress: Whether a progress bar is shown on the terminal; None for one where rich is installed.

        Raises:
            InvalidRequest: For arguments out of range; when the block is entered, for a journal that cannot
                be used.
        """
        from llama4sdk.bulk import map_prompts

        self._check_open()
        return map_prompts(
            self,
            prompts,
            concurrency=concurrency,
            ordered=ordered,
            journal=journal,
            output=output,
            repair=repair,
            sampling=sampling,
            deadlines=deadlines,
            retries=retries,
            progress=progress,
            telemetry=self._telemetry,
        )

    @explains_keywords
    def render(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[ToolLike] = (),
        tool_choice: ToolChoice = "auto",
        output: object = None,
    ) -> Rendered:
        """Return the prompt as the model will read it, without any network.

        Decodes images, so call it in a worker thread where the loop must not wait.

        Raises:
            InvalidRequest: When the backend knows no tokenizer, or the prompt cannot be rendered.
        """
        if not isinstance(self._backend, Renders):
            raise InvalidRequest(
                f"The backend {self.capabilities.name!r} knows no tokenizer; give it one to render and count prompts."
            )
        form = answer_form(output)
        template = self._backend.prompt_template
        return template.render(prompt, specs_of(tools), tool_choice=tool_choice, output=form and form.spec)

    @explains_keywords
    def count(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[ToolLike] = (),
        tool_choice: ToolChoice = "auto",
        output: object = None,
    ) -> TokenCount:
        """Return how many tokens the prompt takes, exactly, before anything is sent.

        Raises:
            InvalidRequest: As `render`.
        """
        return self.render(prompt, tools=tools, tool_choice=tool_choice, output=output).count
