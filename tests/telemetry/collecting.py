"""What the tests of traces share: a hook that writes into memory, and what it wrote."""

from __future__ import annotations

from typing import Any, NamedTuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from llama4sdk import (
    ToolCall,
    ToolCallReady,
)
from llama4sdk.telemetry import OpenTelemetry
from snippet_modules import ROOT

SECRET = "the code is 4711"
OBSERVING = (ROOT / "docs" / "observing.md").read_text("utf-8")
CALLS = [ToolCallReady(0, ToolCall("add", {"a": 17, "b": 25}, "call_1"))]


class Collected(NamedTuple):
    """What a hook wrote, and the hook."""

    hook: OpenTelemetry
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    tracers: TracerProvider

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of the only span of a name."""
        (span,) = [span for span in self.spans if span.name == name]
        return dict(span.attributes or {})

    def points(self, metric: str) -> list[HistogramDataPoint]:
        data = self.reader.get_metrics_data()
        assert data is not None
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return [point for one in metrics if one.name == metric for point in one.data.data_points]  # pyright: ignore[reportReturnType]


def ids(span: ReadableSpan) -> SpanContext:
    assert span.context is not None
    return span.context


def collected(**options: Any) -> Collected:
    exporter, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    hook = OpenTelemetry(tracer_provider=tracers, meter_provider=MeterProvider([reader]), **options)
    return Collected(hook, exporter, reader, tracers)
