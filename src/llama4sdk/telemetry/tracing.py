"""Traces and metrics by OpenTelemetry, named as its GenAI semantic conventions 1.41 name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from llama4sdk.errors import LlamaError
from llama4sdk.events import Done, Usage
from llama4sdk.reply import Reply, ReplyBuilder
from llama4sdk.telemetry.attributes import (
    ERROR,
    MODEL,
    OPERATION,
    RESPONSE_MODEL,
    SCHEMA,
    answered,
    asked,
    common,
    counted,
    operation_of,
)
from llama4sdk.telemetry.content import as_json, prompt_content, reply_content
from llama4sdk.telemetry.hook import Observed, ObservedRequest, ObservedRun, ObservedTool, Telemetry
from llama4sdk.timing import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token
    from types import TracebackType

    from llama4sdk.backend import Capabilities
    from llama4sdk.events import Event
    from llama4sdk.request import Request, ToolSpec
    from llama4sdk.telemetry.attributes import Attributes
    from llama4sdk.tool_call import ToolCall

_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_FIRST = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_TOKENS = [4.0**power for power in range(14)]


class OpenTelemetry(Telemetry):
    """Writes a span for every request, tool, run and prompt of a map, and metrics of requests.

        llama = Llama4("http://127.0.0.1:8000/v1", telemetry=OpenTelemetry())

    Spans are `chat {model}`, `text_completion {model}`, `execute_tool {tool}`, `invoke_agent` (a run) and `map_entry`;
    a failed one has the status ERROR and `error.type`, the name of the SDK's error. Metrics are
    `gen_ai.client.operation.duration`, `gen_ai.client.operation.time_to_first_chunk` (both in seconds) and
    `gen_ai.client.token.usage`.

    Args:
        tracer_provider: Where spans go; left out, the process's.
        meter_provider: Where metrics go; left out, the process's.
        content: Whether spans hold messages, answers, arguments and results. Images are never part of them.
        trace_headers: Whether servers get the headers by which their own traces go on, `traceparent` among them.
        provider: The value of `gen_ai.provider.name`.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        content: bool = False,
        trace_headers: bool = True,
        provider: str = "llama4sdk",
    ) -> None:
        self.tracer = trace.get_tracer("llama4sdk", tracer_provider=tracer_provider, schema_url=SCHEMA)
        self.instruments = Instruments(metrics.get_meter("llama4sdk", meter_provider=meter_provider, schema_url=SCHEMA))
        self.content = content
        self.trace_headers = trace_headers
        self.provider = provider

    def request(self, request: Request, capabilities: Capabilities, session: str = "") -> ObservedRequest:
        """Return the span of a request; see `Telemetry.request`."""
        return _RequestSpan(self, request, capabilities, session)

    def run(self, request: Request, capabilities: Capabilities) -> ObservedRun:
        """Return the span of a run; see `Telemetry.run`."""
        return _RunSpan(self, "invoke_agent", common("invoke_agent", self.provider, capabilities))

    def tool(self, call: ToolCall, spec: ToolSpec) -> ObservedTool:
        """Return the span of a tool; see `Telemetry.tool`."""
        return _ToolSpan(self, call, spec)

    def entry(self, index: int) -> Observed:
        """Return the span of one prompt of a map; see `Telemetry.entry`."""
        return _Spanned(self, "map_entry", {"llama4sdk.map.index": index})


class Instruments:
    """The histograms of requests.

    Args:
        meter: Makes them.
    """

    def __init__(self, meter: metrics.Meter) -> None:
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.first = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="From the request to the first chunk of its answer.",
            explicit_bucket_boundaries_advisory=_FIRST,
        )
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )


class _Spanned(Observed):
    """A span that is the current one within a block."""

    def __init__(
        self, hook: OpenTelemetry, name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL
    ) -> None:
        self._hook = hook
        self._name = name
        self._attributes = attributes
        self._kind = kind
        self._span: Span = trace.INVALID_SPAN
        self._token: Token[context.Context] | None = None

    def __enter__(self) -> Self:
        self._span = self._hook.tracer.start_span(self._name, kind=self._kind, attributes=self._attributes)
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            context.detach(self._token)
        if isinstance(error, Exception):
            self._failed(type(error).__name__, str(error))
        self._span.end()

    def _failed(self, kind: str, words: str) -> None:
        """Mark the span as failed; the words may quote what was said."""
        self._span.set_attribute(ERROR, kind)
        self._span.set_status(Status(StatusCode.ERROR, words if self._hook.content else None))


class _RequestSpan(_Spanned, ObservedRequest):
    def __init__(self, hook: OpenTelemetry, request: Request, capabilities: Capabilities, session: str) -> None:
        self._common = common(operation_of(request), hook.provider, capabilities)
        super().__init__(hook, self._named(), self._common | asked(request, session), SpanKind.CLIENT)
        self._request = request
        self._watch = Stopwatch()
        self._reply = ReplyBuilder()
        self._cost = Usage()
        self._done = False

    def _named(self) -> str:
        return f"{self._common[OPERATION]} {self._common.get(MODEL, '')}".rstrip()

    def __enter__(self) -> Self:
        super().__enter__()
        if self._hook.content and self._span.is_recording():
            self._span.set_attributes(prompt_content(self._request))
        return self

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the process's propagator, as `traceparent`."""
        headers: dict[str, str] = {}
        if self._hook.trace_headers:
            propagate.inject(headers)
        return headers

    def saw(self, event: Event) -> None:
        """Take note of an event."""
        if self._watch.first is None:
            self._watch.note(event)
        self._done = isinstance(event, Done)
        self._reply.add(event)

    def cost(self, usage: Usage) -> None:
        """Take note of the tokens of an answer without an end."""
        self._cost = usage

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.stop()
        if not self._done and not isinstance(error, Exception):
            self.saw(Done("cancelled"))
        reply = self._reply.snapshot()
        self._tell(reply, reply.usage if reply.usage.total_tokens else self._cost, error)
        super().__exit__(kind, error, trace)

    def _tell(self, reply: Reply, usage: Usage, error: BaseException | None) -> None:
        if reply.model and MODEL not in self._common:  # a server whose model was not known before its answer
            self._common[MODEL] = reply.model
            self._span.set_attribute(MODEL, reply.model)
            self._span.update_name(self._named())
        timing = self._watch.timing(0)
        self._span.set_attributes(answered(reply) | counted(usage))
        if timing.first_token is not None:
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", timing.first_token)
        if self._hook.content and self._span.is_recording():
            self._span.set_attributes(reply_content(reply))
        self._measure(reply, usage, timing.total, timing.first_token, error)

    def _measure(
        self, reply: Reply, usage: Usage, seconds: float, first: float | None, error: BaseException | None
    ) -> None:
        labels = self._common | ({RESPONSE_MODEL: reply.model} if reply.model else {})
        instruments = self._hook.instruments
        failure: Attributes = {ERROR: type(error).__name__} if isinstance(error, LlamaError) else {}
        instruments.duration.record(seconds, labels | failure)
        if first is not None:
            instruments.first.record(first, labels)
        if usage.total_tokens:
            instruments.tokens.record(usage.prompt_tokens, labels | {"gen_ai.token.type": "input"})
            instruments.tokens.record(usage.completion_tokens, labels | {"gen_ai.token.type": "output"})


class _RunSpan(_Spanned, ObservedRun):
    def stopped(self, reason: str, usage: Usage) -> None:
        """Take note of the end."""
        self._span.set_attributes({"llama4sdk.run.stopped": reason, **counted(usage)})


class _ToolSpan(_Spanned, ObservedTool):
    def __init__(self, hook: OpenTelemetry, call: ToolCall, spec: ToolSpec) -> None:
        attributes: Attributes = {
            OPERATION: "execute_tool",
            "gen_ai.tool.name": call.name,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.description": spec.description,
        }
        if call.id is not None:
            attributes["gen_ai.tool.call.id"] = call.id
        if hook.content:
            attributes["gen_ai.tool.call.arguments"] = as_json(call.arguments)
        super().__init__(hook, f"execute_tool {call.name}", attributes)

    def returned(self, content: str, problem: str | None) -> None:
        """Take note of the end."""
        if problem is not None:
            self._failed("ToolFailed", problem)
        if self._hook.content:
            self._span.set_attribute("gen_ai.tool.call.result", content)
