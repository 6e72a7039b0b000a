"""Marks that servers leave around tool calls do not stay in the text, however it is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama4sdk import ToolSpec
from llama4sdk.events import Done, Event, TextDelta, ToolCallReady, ToolCallStarted
from llama4sdk.messages import ToolCall
from llama4sdk.tools import CallReader, read_calls
from llama4sdk.tools.events import CallEvents

TOOLS = [ToolSpec("f", "", {"type": "object", "properties": {"a": {}}}), ToolSpec("g")]

CASES = [
    ("<|python_start|>[f(a=1)]<|python_end|>", 1, ""),
    ("<|python_start|>[f(a=1)]<|python_end|><|eom|>", 1, ""),
    ("[f(a=1)]<|eom|>", 1, ""),
    ("[f(a=1)]<|eom|><|eom|>\n", 1, ""),
    ("[f(a=1)]<|eot_id|>", 1, ""),
    ("<|python_tag|>[f(a=1)]<|eom_id|>", 1, ""),
    ("<|eom|>[f(a=1)]", 1, ""),
    ("<|python_end|>\n<|python_start|>[f(a=1)]", 1, ""),
    ("Let me see. <|python_start|>[f(a=1)]<|python_end|><|eom|>", 1, "Let me see."),
    ("Let me see<|python_start|>[f(a=1)]<|python_end|>", 1, "Let me see"),
    ("[f(a=1)]<|python_end|>\n[g()]<|eom|>", 2, ""),
    ("<|python_start|>[f(a=1)]<|python_end|> <|python_start|>[g()]<|python_end|>", 2, ""),
    ("<|python_start|><|python_start|>[f(a=1)]<|python_end|>", 1, ""),
    ("<|python_start|>f(a=1)<|python_end|> Done. <|eom|>", 1, " Done. "),
    ("<|python_start|>```json\n[f(a=1)]\n```<|python_end|>", 1, ""),
    ('<|python_start|><function=f>{"a": 1}</function><|python_end|>', 1, ""),
    ('<|python_start|>{"name": "f", "parameters": {"a": 1}}<|eom|>', 1, ""),
    ("[f(a=1)]<|python_start|><|python_end|> and more", 1, " and more"),
    ("[f(a=1)]<|python_", 1, "<|python_"),
    ("A turn ends with <|eot|> and a call with <|eom|>.", 0, "A turn ends with <|eot|> and a call with <|eom|>."),
    ("<|python_start|>", 0, "<|python_start|>"),
    ("<|python_start|>no call<|python_end|>", 0, "<|python_start|>no call<|python_end|>"),
    ("a<b <|x|> <|python <", 0, "a<b <|x|> <|python <"),
]


@pytest.mark.parametrize(("text", "calls", "left"), CASES, ids=[case[0] for case in CASES])
def test_marks_around_calls_are_no_text(text: str, calls: int, left: str) -> None:
    read = read_calls(text, TOOLS)
    assert (len(read.calls), read.text) == (calls, left)


@given(st.sampled_from(CASES), st.lists(st.integers(0, 100), max_size=8))
def test_marks_are_the_same_wherever_the_text_is_cut(case: tuple[str, int, str], cuts: list[int]) -> None:
    text, calls, left = case
    reader, events = CallReader(TOOLS), list[Event]()
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for begin, end in itertools.pairwise(places):
        events += reader.feed(text[begin:end])
    events += reader.end()
    assert sum(isinstance(event, ToolCallReady) for event in events) == calls
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == left


CALL = (ToolCallStarted(0, "f", None), ToolCallReady(0, ToolCall("f")))


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([TextDelta("<|python_start|>"), *CALL, TextDelta("<|python_end|>")], ""),
        ([TextDelta("<|python_"), TextDelta("start|>"), *CALL, TextDelta("<|python_end|>\n")], ""),
        ([*CALL, TextDelta("<|eom|>")], ""),
        ([TextDelta("Hi <|python_start|>"), *CALL, TextDelta("<|python_end|>\n")], "Hi"),
        ([TextDelta("<|python_start|>"), *CALL, TextDelta("<|python_end|> Done.")], " Done."),
        ([TextDelta("[g()]<|python_end|>"), *CALL], ""),
    ],
)
def test_marks_around_calls_that_a_backend_sends_as_events_are_no_text(events: list[Event], left: str) -> None:
    reader = CallEvents(TOOLS, "call_")
    read = [made for event in (*events, Done("tool_calls")) for made in reader.add(event)]
    assert "".join(event.text for event in read if isinstance(event, TextDelta)).strip(" ") == left.strip(" ")
    assert any(isinstance(event, ToolCallReady) for event in read)
