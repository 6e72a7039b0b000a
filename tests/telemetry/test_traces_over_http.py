"""Traces across processes: headers to servers, the server in front of a client, and the page's snippet."""

from __future__ import annotations

import asyncio
import builtins
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExportResult

from llama4sdk import (
    Llama4,
    Request,
    UserMessage,
    lifetime,
)
from llama4sdk.errors import BackendMissing, InvalidRequest
from llama4sdk.testing import ScriptedBackend
from llama4sdk.testing.faults import FaultServer
from server_running import serving
from snippet_modules import run_snippet, snippets_of
from telemetry.collecting import OBSERVING, collected, ids


async def test_a_server_gets_the_trace_and_can_be_named() -> None:
    seen = collected()
    async with FaultServer() as server:
        async with Llama4(server.url, telemetry=seen.hook) as llama:
            await llama.chat("Hi")
        asked = server.received[-1]
    (span,) = seen.spans
    trace, parent = f"{ids(span).trace_id:032x}", f"{ids(span).span_id:016x}"
    assert asked.headers["traceparent"].rpartition("-")[0] == f"00-{trace}-{parent}"
    attributes = dict(span.attributes or {})
    assert f"http://{attributes['server.address']}:{attributes['server.port']}/v1" == server.url


async def test_headers_can_be_withheld() -> None:
    seen = collected(trace_headers=False)
    async with FaultServer() as server:
        async with Llama4(server.url, telemetry=seen.hook) as llama:
            await llama.chat("Hi")
        assert "traceparent" not in server.received[-1].headers
    assert len(seen.spans) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_server_in_front_of_a_client_tells_its_requests(streamed: bool) -> None:
    seen = collected()
    async with serving(ScriptedBackend("Hello there"), telemetry=seen.hook) as client:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": streamed}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    attributes = seen.attributes("chat script")
    assert attributes["gen_ai.usage.output_tokens"] == 2
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)


async def test_a_client_that_leaves_the_server_ends_the_span() -> None:
    seen = collected()
    async with serving(ScriptedBackend(["Hello ", 30.0]), telemetry=seen.hook) as client:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for _ in response.aiter_lines():
                break
        async with asyncio.timeout(5):
            while not seen.spans:  # noqa: ASYNC110 - an exporter announces nothing
                await asyncio.sleep(0.01)
    assert seen.attributes("chat script")["gen_ai.response.finish_reasons"] == ("cancelled",)


def test_without_opentelemetry_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name="opentelemetry")
        return real(name, *arguments, **named)

    monkeypatch.delitem(sys.modules, "llama4sdk.telemetry.tracing")
    monkeypatch.setattr(builtins, "__import__", without)
    import llama4sdk.telemetry

    with pytest.raises(BackendMissing, match=r"llama4sdk\[otel\]"):
        llama4sdk.telemetry.OpenTelemetry()


@pytest.mark.parametrize("headers", [("a",), (("a", "b\r\nc: d"),), (("a b", "c"),), (("a", "ä"),), (("a", 1),), "ab"])
def test_headers_that_no_request_can_carry_are_refused(headers: Any) -> None:
    with pytest.raises(InvalidRequest, match="trace_headers"):
        Request((UserMessage("Hi"),), trace_headers=headers)


async def test_the_snippet_of_the_page_prints_its_spans(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported: list[str] = []

    def export(self: ConsoleSpanExporter, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        exported.extend(span.name for span in spans)
        return SpanExportResult.SUCCESS

    def scripted() -> tuple[ScriptedBackend, dict[str, Any]]:
        return ScriptedBackend("17 + 25 = 42."), {}

    monkeypatch.setattr(ConsoleSpanExporter, "export", export)
    monkeypatch.setattr(lifetime, "backend_named", scripted)
    names: dict[str, Any] = {}
    for _, code in snippets_of(OBSERVING):
        await run_snippet(code, names)
    assert capsys.readouterr().out == "17 + 25 = 42.\n"
    assert exported == ["chat script"]
