"""One hook for what a client does: requests, tools, the prompts of a map. OpenTelemetry comes with the extra `otel`.

from llama4sdk.telemetry import OpenTelemetry

async with Llama4(telemetry=OpenTelemetry()) as llama: …
"""

from importlib import import_module
from typing import TYPE_CHECKING

from llama4sdk.errors import BackendMissing
from llama4sdk.telemetry.hook import Observed, ObservedRequest, ObservedRun, ObservedTool, Telemetry

if TYPE_CHECKING:
    from llama4sdk.telemetry.tracing import OpenTelemetry


def __getattr__(name: str) -> object:
    if name != "OpenTelemetry":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_module("llama4sdk.telemetry.tracing").OpenTelemetry
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "opentelemetry":
            raise
        raise BackendMissing(
            "Traces need opentelemetry-api. Install it with: pip install 'llama4sdk[otel]' opentelemetry-sdk"
        ) from error


__all__ = ["Observed", "ObservedRequest", "ObservedRun", "ObservedTool", "OpenTelemetry", "Telemetry"]
