"""The tool loop: ask, run the calls of the reply, send the results, until the model answers."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, cast

import anyio

from llama4sdk.errors import DeadlineExceeded, InvalidRequest, LlamaError, OutputInvalid, ToolFailed
from llama4sdk.events import Event, GuardFlag, Usage
from llama4sdk.messages import AssistantMessage, Message, ToolCall, UserMessage
from llama4sdk.production import Production, Pumped
from llama4sdk.reply import Answer, Reply
from llama4sdk.run_options import Limits
from llama4sdk.stream import Stream, one_error
from llama4sdk.tools import Tool, ToolLike, declared
from llama4sdk.tools.bad_items import undeclared_call
from llama4sdk.tools.calling import CallResult, failed, in_thread, run_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from llama4sdk.backend import Answers
    from llama4sdk.output import AnswerForm
    from llama4sdk.request import Request
    from llama4sdk.run_options import Approve, Decision
    from llama4sdk.telemetry.hook import Telemetry

Stopped: TypeAlias = Literal["answered", "max_rounds", "length", "content_filter", "cancelled"]


@dataclass(frozen=True, slots=True)
class ToolBegun:
    """A call of the model's is being run."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """A call was run, refused, or failed."""

    result: CallResult


RunEvent: TypeAlias = Event | ToolBegun | ToolEnded


@dataclass(frozen=True, slots=True)
class Run(Generic[Answer]):
    """The result of a run, or its state so far.

    Args:
        reply: The model's last reply.
        messages: The whole conversation: the prompt, every reply, every result.
        calls: Every call with its result, in the order of the replies.
        usage: Token counts, summed over all replies.
        rounds: How often the model was asked.
        stopped: Why it ended; None while it has not. `answered` is the model's own end.
    """

    reply: Reply[Answer]
    messages: tuple[Message, ...]
    calls: tuple[CallResult, ...] = ()
    usage: Usage = Usage()
    rounds: int = 0
    stopped: Stopped | None = None

    @property
    def text(self) -> str:
        """The text of the last reply."""
        return self.reply.text

    @property
    def output(self) -> Answer:
        """The typed answer, when one was asked for."""
        return self.reply.output

    @property
    def complete(self) -> bool:
        """Whether the model came to its own end."""
        return self.stopped == "answered"

    def __str__(self) -> str:
        return self.reply.text


_DEFAULTS = Limits()


class RunStream(Pumped[RunEvent], Generic[Answer]):
    """The events of a run; made by `Llama4.run_stream`.

        async with llama.run_stream("What is the weather in Paris?", tools=[get_weather]) as running:
            async for event in running: …
            run = await running.result()

    The events of each reply come as in a `Stream`, from `Started` to `Done`; between replies, `ToolBegun`
    and `ToolEnded` for each call. `snapshot` is the run so far, at any time.

    Args:
        backend: What runs it; started already.
        request: The first request.
        tools: The tools, each with a function.
        limits: What the run may take.
        approve: Asked before each call; see `Llama4.run`.
        form: The form of the last reply.
        on_tool_error: `tell` the model of it, or `raise` `ToolFailed`.
        owner: The client's running streams.
        telemetry: Observes the run, its requests and its tools.
    """

    def __init__(
        self,
        backend: Answers,
        request: Request,
        tools: Sequence[ToolLike],
        *,
        limits: Limits = _DEFAULTS,
        approve: Approve | None = None,
        form: AnswerForm | None = None,
        on_tool_error: Literal["tell", "raise"] = "tell",
        owner: set[Production[Any]] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._loop = _ToolLoop(
            backend, request, runnable(tools), limits, approve, form, on_tool_error, owner, telemetry
        )
        super().__init__("run_stream", self._loop)

    @property
    def snapshot(self) -> Run[Any]:
        """The run so far; its `stopped` is None until it has ended."""
        return self._loop.snapshot

    async def result(self) -> Run[Answer]:
        """Wait for the end and return the whole run; `stopped` says how it ended.

        Raises:
            LlamaError: When a request fails.
        """
        async for _ in self:
            pass
        return self.snapshot

    def _at_end(self) -> RunEvent:
        if self._production.failure is not None:
            raise self._production.failure
        raise StopAsyncIteration


class _ToolLoop(Production[RunEvent]):
    """Asks the model and runs its calls, until it answers."""

    def __init__(
        self,
        backend: Answers,
        request: Request,
        tools: dict[str, Tool[..., Any]],
        limits: Limits,
        approve: Approve | None,
        form: AnswerForm | None,
        on_tool_error: Literal["tell", "raise"],
        owner: set[Production[Any]] | None,
        telemetry: Telemetry | None,
    ) -> None:
        super().__init__(owner)
        self._backend = backend
        self._request = request
        self._tools = tools
        self._limits = limits
        self._approve = approve
        self._form = form
        self._on_tool_error = on_tool_error
        self._telemetry = telemetry
        self._messages = list(request.messages)
        self._calls: list[CallResult] = []
        self._usage = Usage()
        self._rounds = 0
        self._stopped: Stopped | None = None
        self._stream: Stream[Any] | None = None
        self._asked: list[ToolCall] = []  # calls about which a guard asks a person

    @property
    def snapshot(self) -> Run[Any]:
        """The run so far."""
        reply: Reply[Any] = self._stream.snapshot if self._stream is not None else Reply()
        stopped = "cancelled" if self.cancelled else self._stopped
        return Run(reply, tuple(self._messages), tuple(self._calls), self._usage, self._rounds, stopped)

    async def produce(self) -> None:
        if self._telemetry is None:
            await self._run()
            return
        with self._telemetry.run(self._request, self._backend.capabilities) as observed:
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001 - the hook sees the error that the reader gets
                one = self.explained(error)
                raise one from one.__cause__
            finally:
                observed.stopped(self._stopped or "cancelled", self._usage)

    async def _run(self) -> None:
        total = self._request.deadlines.total
        with anyio.move_on_after(total) as scope:
            self._stopped = await self._loop(scope)
        if scope.cancelled_caught:
            raise DeadlineExceeded(
                f"The total deadline of {total:g} s passed during the run; raise Deadlines(total=…) if needed.",
                phase="total",
            )

    async def _loop(self, scope: anyio.CancelScope) -> Stopped:
        repairs = self._limits.repair
        while True:
            try:
                reply = await self._ask(scope)
            except OutputInvalid as error:
                if not repairs:
                    raise
                repairs -= 1
                self._messages += complaint(error)
                continue
            if reply.finish_reason == "length" or reply.finish_reason == "content_filter":
                return reply.finish_reason
            if not reply.tool_calls:
                unknown = undeclared_call(reply.text, self._tools) if self._form is None else None
                if unknown is None or self._rounds >= self._limits.max_rounds:
                    return "answered"
                self._messages.append(
                    UserMessage(f"There is no tool named {unknown}; there are: {', '.join(self._tools)}.")
                )
                continue
            last = self._rounds >= self._limits.max_rounds
            await self._settle(reply, "The limit of rounds is reached; it was not run." if last else None)
            if last:
                return "max_rounds"

    async def _ask(self, scope: anyio.CancelScope) -> Reply[Any]:
        """Send the conversation so far, and hand the reply's events on."""
        request = self._request
        if self._rounds:
            left = max(0.001, scope.deadline - anyio.current_time()) if request.deadlines.total is not None else None
            request = replace(
                request,
                messages=tuple(self._messages),
                tool_choice="none" if request.tool_choice == "none" else "auto",
                deadlines=replace(request.deadlines, total=left),
                request_id=f"{self._request.request_id}-{self._rounds + 1}",
            )
        self._rounds += 1
        self._stream = Stream[Any](self._backend, request, form=self._form, owner=self.owner, telemetry=self._telemetry)
        async with self._stream as stream:
            try:
                async for event in stream:
                    if isinstance(event, GuardFlag) and event.call is not None and event.verdict.action == "ask":
                        self._asked.append(event.call)
                    await self.queue.put(event)
            finally:
                self._usage += stream.snapshot.usage
        reply = stream.snapshot
        if not reply.tool_calls:
            self._messages.append(reply.message)
        return reply

    async def _settle(self, reply: Reply[Any], refusal: str | None) -> None:
        """Run the calls of a reply, or refuse them, and put reply and results into the conversation.

        Whatever happens, every call has a result afterwards.
        """
        calls = list(reply.tool_calls)
        results: dict[int, CallResult] = {}
        try:
            if refusal is None:
                await self._run_all(calls, results)
        finally:
            left = refusal or "The call was cancelled."
            settled = [results.get(place) or failed(call, left) for place, call in enumerate(calls)]
            self._calls += settled
            self._messages.append(AssistantMessage(reply.text, tool_calls=[result.call for result in settled]))
            self._messages += [result.message for result in settled]

    async def _run_all(self, calls: list[ToolCall], results: dict[int, CallResult]) -> None:
        for place, call in enumerate(calls):
            decided = await self._decide(call)
            if isinstance(decided, CallResult):
                results[place] = decided
                await self.queue.put(ToolEnded(decided))
            else:
                calls[place] = decided
        limit = anyio.CapacityLimiter(self._limits.max_parallel)

        async def run(place: int, call: ToolCall) -> None:
            async with limit:
                await self.queue.put(ToolBegun(call))
                results[place] = await self._run_one(call)
                await self.queue.put(ToolEnded(results[place]))

        async with anyio.create_task_group() as tasks:
            for place, call in enumerate(calls):
                if place not in results:
                    tasks.start_soon(run, place, call)

    async def _decide(self, call: ToolCall) -> ToolCall | CallResult:
        """Ask whether a call may run; one at a time, in the order of the calls."""
        if call.name not in self._tools:
            return failed(call, f"There is no tool named {call.name}; there are: {', '.join(self._tools)}.")
        if call.problem is not None:
            return failed(call, call.problem)
        if self._approve is None:
            return (
                call if call not in self._asked else failed(call, "A guard asks for approval, and none can be given.")
            )
        try:
            decision = await _asked(self._approve, call)
        except LlamaError:
            raise
        except Exception as error:
            raise ToolFailed(f"The approve callback failed with {type(error).__name__}; see __cause__.") from error
        match decision:
            case ToolCall():
                if decision.name not in self._tools:
                    raise ToolFailed(f"The approve callback changed a call to {decision.name!r}, which is no tool.")
                return ToolCall(decision.name, decision.arguments, call.id)
            case str():
                return failed(call, f"The call was refused: {decision}")
            case _:
                return call if decision is True else failed(call, "The call was refused by the user.")

    async def _run_one(self, call: ToolCall) -> CallResult:
        limits, tool = self._limits, self._tools[call.name]
        with nullcontext() if self._telemetry is None else self._telemetry.tool(call, tool.spec) as observed:
            result = await run_call(tool, call, timeout=limits.tool_timeout, max_result=limits.max_result)
            if observed is not None:
                observed.returned(result.message.text, result.error)
        if result.error is not None and self._on_tool_error == "raise":
            raise ToolFailed(f"The tool {call.name} failed: {result.error}")
        return result

    def explained(self, error: BaseException) -> LlamaError:
        return one_error(error, self._backend.capabilities.name, self._request.request_id)


def runnable(tools: Sequence[ToolLike]) -> dict[str, Tool[..., Any]]:
    """Return the tools by name, all of which must have a function.

    Raises:
        InvalidRequest: For one that is only declared, and as `llama4sdk.tools.declared`.
    """
    by_name: dict[str, Tool[..., Any]] = {}
    for tool in declared(tools):
        if not isinstance(tool, Tool):
            raise InvalidRequest(
                f"The tool {tool.name} has no function; give run() functions, or use chat() and run the calls yourself."
            )
        by_name[tool.name] = tool
    return by_name


def complaint(error: OutputInvalid) -> list[Message]:
    """Return the messages that ask for an answer again."""
    problem = str(error).partition(" It is in .raw")[0]
    asked = f"That does not fit. {problem} Answer with nothing but the corrected JSON."
    return [AssistantMessage(error.raw), UserMessage(asked)]


async def _asked(approve: Approve, call: ToolCall) -> Decision:
    """Call the callback off the loop, since it may wait for a person; one that is a coroutine function on it."""
    if inspect.iscoroutinefunction(approve):
        return await cast("Awaitable[Decision]", approve(call))
    decision = await in_thread(lambda: approve(call))
    if inspect.isawaitable(decision):
        return await decision
    return decision
