"""Loopback servers and helpers for the tests of real servers' behaviours."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from llama4_http import HttpBackend, Retries
from llama4_http.tool_calls import ToolCallReader
from llama4sdk.events import ToolCallReady
from llama4sdk.messages import ToolCall
from llama4sdk.request import ToolSpec
from llama4sdk.testing.faults import FaultServer, honest
from llama4sdk.testing.faults.wire import Received, Wire

F = ToolSpec("f", "", {"type": "object", "properties": {"city": {"type": "string"}, "tags": {"type": "array"}}})
G = ToolSpec("g", "")


class Answering(FaultServer):
    """Answers every POST with the given chunks as one stream, or with the well-behaved answer after the last."""

    def __init__(self, *answers: list[Any], version: str | None = None) -> None:
        super().__init__()
        self._answers = list(answers)
        self._version = version

    async def _behave(self, wire: Wire, request: Received) -> None:
        if not self._answers:
            await super()._behave(wire, request)
            return
        await wire.head()
        for chunk in self._answers.pop(0):
            await wire.chunk(honest.event(chunk))
        await wire.end()

    async def _aside(self, wire: Wire, request: Received) -> None:
        if request.path == "/version" and self._version is not None:
            await wire.answer_json(200, {"version": self._version})
        else:
            await super()._aside(wire, request)


def remote(url: str, **options: Any) -> HttpBackend:
    options = {"model": "faults", "profile": "openai-generic", "retries": Retries(first_wait=0.001), **options}
    return HttpBackend(url, **options)


def calling(*deltas: dict[str, Any], reason: str = "tool_calls") -> list[Any]:
    return [*(honest.delta({"tool_calls": [delta]}) for delta in deltas), honest.delta({}, reason)]


def delta(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    return {**fields, "function": {"name": name, "arguments": arguments}}


def read(*deltas: dict[str, Any], cut: bool = False, whole: bool = False, tools: Any = (F, G)) -> list[ToolCall]:
    reader = ToolCallReader(tools)
    for one in deltas:
        reader.add([one], whole=whole)
    return [event.call for event in reader.ready(cut=cut) if isinstance(event, ToolCallReady)]


def parts(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[low:high] for low, high in pairwise(edges)]
