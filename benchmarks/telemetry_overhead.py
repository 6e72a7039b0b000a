"""The cost of the OpenTelemetry hook for each streamed chunk: `python -m benchmarks.telemetry_overhead`.

A backend whose events are ready is read through `Llama4.stream`: without a hook, with the hook and no SDK behind it,
and with the hook, its SDK and an exporter that drops everything; in turn, round by round. It counts the CPU time of the
process for each chunk, the median of the rounds, and for a whole request of one chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.server_overhead import ReadyBackend
from llama4sdk import Llama4, TextDelta
from llama4sdk.telemetry import OpenTelemetry, Telemetry


class Dropping(SpanExporter):
    """Exports nothing."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def seconds_of(llama: Llama4, streams: int) -> float:
    """Return the CPU seconds of some streams one after the other."""
    before = time.process_time()
    for _ in range(streams):
        async with llama.stream("Hi") as stream:
            async for event in stream:
                isinstance(event, TextDelta)
    return time.process_time() - before


async def measure(chunks: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the medians: microseconds for each chunk, and for each request."""
    traces = TracerProvider()
    traces.add_span_processor(SimpleSpanProcessor(Dropping()))
    meters = MeterProvider([InMemoryMetricReader()])
    hooks: dict[str, Telemetry | None] = {
        "no hook": None,
        "hook without SDK": OpenTelemetry(),
        "hook with SDK": OpenTelemetry(tracer_provider=traces, meter_provider=meters),
    }
    long: dict[str, list[float]] = {name: [] for name in hooks}
    short: dict[str, list[float]] = {name: [] for name in hooks}
    for number in range(rounds + 1):
        for name, hook in hooks.items():
            async with (
                Llama4(ReadyBackend(chunks), telemetry=hook) as many,
                Llama4(ReadyBackend(1), telemetry=hook) as one,
            ):
                per_chunk = await seconds_of(many, 3) / (3 * chunks) * 1e6
                per_request = await seconds_of(one, 200) / 200 * 1e6
            if number:  # the first round warms up
                long[name].append(per_chunk)
                short[name].append(per_request)
    return {
        "microseconds_per_chunk": {name: round(statistics.median(row), 2) for name, row in long.items()},
        "microseconds_per_request": {name: round(statistics.median(row), 1) for name, row in short.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.chunks, options.rounds)), indent=2))


if __name__ == "__main__":
    main()
