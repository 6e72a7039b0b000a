"""Traces and metrics of a client, by OpenTelemetry's own SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from llama4sdk import (
    Capabilities,
    Event,
    Llama4,
    Overloaded,
    Request,
    Sampling,
    ToolCall,
    ToolCallReady,
    UserMessage,
)
from llama4sdk.errors import InvalidRequest, LlamaError, OutputInvalid, ServerFault
from llama4sdk.messages import Image
from llama4sdk.testing import ScriptedBackend
from telemetry.collecting import CALLS, SECRET, collected, ids


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def fail(word: str) -> str:
    """Fail."""
    raise ValueError(word)


async def test_a_chat_is_a_client_span_with_the_attributes_of_the_conventions() -> None:
    seen = collected()
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=4, max_tokens=8, seed=3, stop=["x"])
    async with Llama4(ScriptedBackend("Hello there, you"), telemetry=seen.hook) as llama:
        reply = await llama.chat(SECRET, sampling=sampling)
    (span,) = seen.spans
    assert (span.name, span.kind, span.status.status_code) == ("chat script", SpanKind.CLIENT, StatusCode.UNSET)
    attributes = dict(span.attributes or {})
    first = attributes.pop("gen_ai.response.time_to_first_chunk")
    assert isinstance(first, float)
    assert 0 < first < 5
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama4sdk",
        "gen_ai.request.model": "script",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 4,
        "gen_ai.request.max_tokens": 8,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": ("x",),
        "gen_ai.request.stream": True,
        "gen_ai.response.id": reply.request_id,
        "gen_ai.response.model": "script",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 4,
        "gen_ai.usage.output_tokens": 3,
        "llama4sdk.backend": "scripted",
    }
    tokens = seen.points("gen_ai.client.token.usage")
    by_kind = {(point.attributes or {})["gen_ai.token.type"]: point.sum for point in tokens}
    assert by_kind == {"input": 4, "output": 3}
    for metric in ("gen_ai.client.operation.duration", "gen_ai.client.operation.time_to_first_chunk"):
        (point,) = seen.points(metric)
        assert point.count == 1
        assert (point.attributes or {})["gen_ai.response.model"] == "script"


async def test_no_content_unless_it_is_asked_for() -> None:
    seen, told = collected(), collected(content=True)
    messages = [UserMessage([Image(b"GIF89a"), Image("https://example.org/a.png"), SECRET])]
    for each in (seen, told):
        async with Llama4(ScriptedBackend([*CALLS], SECRET), telemetry=each.hook) as llama:
            await llama.run(messages, tools=[add])
    assert not any(SECRET in str(span.to_json()) for span in seen.spans)
    names = {name.rpartition(".")[2] for span in seen.spans for name in span.attributes or {}}
    assert not names & {"messages", "arguments", "result", "system_instructions", "definitions"}
    first, tool, last, _ = told.spans
    asked = json.loads(str((first.attributes or {})["gen_ai.input.messages"]))
    assert asked == [
        {
            "role": "user",
            "parts": [
                {"type": "image"},
                {"type": "uri", "modality": "image", "uri": "https://example.org/a.png"},
                {"type": "text", "content": SECRET},
            ],
        }
    ]
    call = {"type": "tool_call", "id": "call_1", "name": "add", "arguments": {"a": 17, "b": 25}}
    answer = {"role": "assistant", "parts": [call], "finish_reason": "tool_calls"}
    assert json.loads(str((first.attributes or {})["gen_ai.output.messages"])) == [answer]
    assert json.loads(str((first.attributes or {})["gen_ai.tool.definitions"]))[0]["name"] == "add"
    assert (tool.attributes or {})["gen_ai.tool.call.result"] == "42"
    history = json.loads(str((last.attributes or {})["gen_ai.input.messages"]))
    assert history[-1]["parts"] == [{"type": "tool_call_response", "id": "call_1", "response": "42"}]


async def test_a_run_holds_its_requests_and_tools_and_a_failing_tool_is_an_error() -> None:
    seen = collected()
    calls = [*CALLS, ToolCallReady(1, ToolCall("fail", {"word": SECRET}, "call_2"))]
    async with Llama4(ScriptedBackend([*calls], "Done."), telemetry=seen.hook) as llama:
        with seen.tracers.get_tracer("app").start_as_current_span("page"):
            await llama.run("What?", tools=[add, fail])
    by_name: dict[str, list[ReadableSpan]] = {}
    for span in seen.spans:
        by_name.setdefault(span.name, []).append(span)
    assert {name: len(spans) for name, spans in by_name.items()} == {
        "chat script": 2,
        "execute_tool add": 1,
        "execute_tool fail": 1,
        "invoke_agent": 1,
        "page": 1,
    }
    (run,) = by_name["invoke_agent"]
    assert run.parent is not None
    assert run.parent.span_id == ids(by_name["page"][0]).span_id
    inner = [span for name, spans in by_name.items() if name not in ("invoke_agent", "page") for span in spans]
    assert {span.parent and span.parent.span_id for span in inner} == {ids(run).span_id}
    assert (run.attributes or {})["llama4sdk.run.stopped"] == "answered"
    failing = by_name["execute_tool fail"][0]
    assert failing.status.status_code is StatusCode.ERROR
    assert (failing.attributes or {})["error.type"] == "ToolFailed"
    assert SECRET not in str(failing.to_json())
    assert by_name["execute_tool add"][0].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([Overloaded("busy", retry_after=0.01)], "Overloaded"),
        ([ServerFault(SECRET)], "ServerFault"),
        (["Hello ", ServerFault("late")], "ServerFault"),
    ],
)
async def test_a_failed_request_is_named_by_its_error(steps: list[Any], kind: str) -> None:
    seen = collected()
    async with Llama4(ScriptedBackend(steps), telemetry=seen.hook) as llama:
        with pytest.raises(LlamaError):
            await llama.chat("Hi")
    (span,) = seen.spans
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == kind
    assert "gen_ai.response.finish_reasons" not in (span.attributes or {})
    assert SECRET not in str(span.to_json())
    (point,) = seen.points("gen_ai.client.operation.duration")
    assert (point.attributes or {})["error.type"] == kind


async def test_each_try_of_a_repaired_answer_is_a_span() -> None:
    seen = collected()
    async with Llama4(ScriptedBackend("no", "still no"), telemetry=seen.hook) as llama:
        with pytest.raises(OutputInvalid):
            await llama.chat("How many?", output=int, repair=1)
    kinds = [(span.attributes or {})["error.type"] for span in seen.spans]
    assert kinds == ["OutputInvalid", "OutputInvalid"]
    assert [(span.attributes or {})["gen_ai.output.type"] for span in seen.spans] == ["json", "json"]


class Broken:
    """A backend whose failure is no error of the SDK's."""

    capabilities = ScriptedBackend().capabilities

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        raise KeyError(SECRET)
        yield


async def test_a_foreign_failure_has_the_name_that_the_reader_gets() -> None:
    seen = collected()
    async with Llama4(Broken(), telemetry=seen.hook) as llama:
        with pytest.raises(ServerFault) as raised:
            await llama.chat("Hi")
    assert isinstance(raised.value.__cause__, KeyError)
    assert seen.attributes("chat script")["error.type"] == "ServerFault"


async def left(llama: Llama4) -> None:
    async with llama.stream("Hi") as stream:
        async for _ in stream.text():
            break


async def cancelled(llama: Llama4) -> None:
    async with llama.stream("Hi") as stream:
        async for _ in stream.text():
            await stream.cancel()


async def timed_out(llama: Llama4) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await llama.chat("Hi")


@pytest.mark.parametrize("leave", [left, cancelled, timed_out])
async def test_a_span_ends_when_its_stream_is_left_and_is_no_error(leave: Any) -> None:
    seen = collected()
    async with Llama4(ScriptedBackend(["Hello ", 30.0, "late"]), telemetry=seen.hook) as llama:
        await leave(llama)
        (span,) = seen.spans
        assert span.end_time is not None
        assert span.status.status_code is StatusCode.UNSET
        assert (span.attributes or {})["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert len(seen.spans) == 1


async def test_a_stream_that_is_never_entered_has_no_span() -> None:
    seen = collected()
    async with Llama4(ScriptedBackend(), telemetry=seen.hook) as llama:
        llama.stream("Hi")
        with pytest.raises(InvalidRequest):
            await llama.chat([])
    assert seen.spans == []


async def test_every_prompt_of_a_map_is_a_span_over_all_its_tries() -> None:
    seen = collected()
    script = ScriptedBackend([Overloaded("busy", retry_after=0.01)], "one", "two")
    async with Llama4(script, telemetry=seen.hook) as llama, llama.map(["a", "b"], concurrency=1) as outcomes:
        assert [outcome.ok async for outcome in outcomes] == [True, True]
    entries = {ids(span).span_id: span for span in seen.spans if span.name == "map_entry"}
    assert [(span.attributes or {})["llama4sdk.map.index"] for span in entries.values()] == [0, 1]
    tries = [span.parent and span.parent.span_id for span in seen.spans if span.name == "chat script"]
    first, second = entries
    assert tries == [first, first, second]


class Keeping(ScriptedBackend):
    """A script that can be a session of itself."""

    tokens = 3

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, raw_prompts=True, sessions=True)

    async def session(self, request: Request) -> Keeping:
        return Keeping("kept")

    async def restore(self, path: object) -> Keeping:
        return Keeping("kept")

    async def fork(self) -> Keeping:
        return Keeping("kept")

    async def save(self, path: object) -> None: ...


async def test_turns_of_a_session_name_it_and_completions_are_completions() -> None:
    seen = collected()
    async with Llama4(Keeping(lambda request: "completed"), telemetry=seen.hook) as llama:
        async with await llama.session("Hello!") as session, await session.fork() as fork:
            await session.chat("What is 17 + 25?")
            await session.chat("And twice?")
            await fork.chat("What is 3 + 4?")
            assert session.id != fork.id
            names = [session.id, session.id, fork.id]
        await llama.complete("17 + 25 =")
    turns = [(span.attributes or {}) for span in seen.spans if span.name == "chat script"]
    assert [turn["gen_ai.conversation.id"] for turn in turns] == names
    completed = seen.attributes("text_completion script")
    assert completed["gen_ai.operation.name"] == "text_completion"
    assert "gen_ai.conversation.id" not in completed
