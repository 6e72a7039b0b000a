"""Answers in forms that no specification names and servers and gateways send."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest

from http_real_servers import F, calling, delta
from llama4_http.answer import AnswerReader
from llama4_http.errors import Sent
from llama4sdk.events import Done, Event, TextDelta, ToolCallReady
from llama4sdk.testing.faults import honest

END: dict[str, Any] = honest.delta({}, "stop")


def events_of(*chunks: Any) -> list[Event]:
    out: deque[Event] = deque()
    reader = AnswerReader(Sent("r"), out, tools=(F,))
    for chunk in chunks:
        reader.feed(f"data: {json.dumps(chunk)}\n\n".encode())
    reader.end()
    return list(out)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize(
    "chunks",
    [
        [honest.delta({"content": [{"type": "text", "text": "H"}, {"type": "output_text", "text": "i"}]}), END],
        [honest.delta({"content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "Hi"}]}), END],
        [None, honest.delta({"content": "Hi"}), None, END],
        [{}, honest.delta({"content": "Hi"}), END],
    ],
)
def test_an_answer_in_an_odd_form_is_read(chunks: list[Any]) -> None:
    events = events_of(*chunks)
    assert text_of(events) == "Hi"
    assert isinstance(events[-1], Done)
    assert events[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (delta("f", '{"city": "A"}', index=0, id=7), {"city": "A"}),
        (delta(" f\n", '{"city": "A"}', index=0, id="x"), {"city": "A"}),
    ],
)
def test_a_call_in_an_odd_form_is_read(call: dict[str, Any], arguments: Any) -> None:
    for chunks in (calling(call), [honest.delta({"tool_calls": call}), honest.delta({}, "tool_calls")]):
        (ready,) = (event.call for event in events_of(*chunks) if isinstance(event, ToolCallReady))
        assert ready.name == "f"
        assert ready.arguments == arguments
        assert ready.problem is None
