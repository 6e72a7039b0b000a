"""The reader of tool calls, piece by piece: any cut, any text, any size."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4sdk import Event, TextDelta, TokenLogprob, ToolCallDelta, ToolCallReady, ToolCallStarted, ToolSpec
from llama4sdk.messages import ToolCall
from llama4sdk.prompting.tool_format import write_calls
from llama4sdk.tools import CallReader, read_calls
from llama4sdk.tools.calls import MAX_CALLS
from tools.call_cases import CASES, TOOLS

FRAGMENTS = [
    "[", "]", "{", "}", "(", ")", "<", ">", "f", "g", "f(", "f(a=", "a=1", "=", ",", ";", ":", '"', "'", '"""', "\\",
    "\\u00", "```", "`", "json\n", "\n", " ", "<|python_start|>", "<|python_end|>", "<function=f>", "</function>", "-1",
    '{"name": "f", ', '"parameters": {', "{}", '"type": "function"', "1.5", "True", "null", "é", "😀", "\ud83d",
    "[f()]", "get_weather(city=", "Paris", "[f(a=1)]",
]  # fmt: skip


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[begin:end] for begin, end in pairwise(places)]


def read(parts: Sequence[str], tools: Sequence[ToolSpec] = TOOLS, ids: str | None = "id") -> list[Event]:
    reader = CallReader(tools, ids=ids)
    events = [event for part in parts for event in reader.feed(part)]
    return events + reader.end()


def seen(events: Sequence[Event]) -> tuple[list[ToolCallReady], str]:
    calls = [event for event in events if isinstance(event, ToolCallReady)]
    return calls, "".join(event.text for event in events if isinstance(event, TextDelta))


def arguments_of(events: Sequence[Event], index: int) -> Any:
    return json.loads(
        "".join(event.arguments for event in events if isinstance(event, ToolCallDelta) and event.index == index)
    )


texts = st.one_of(
    st.sampled_from([case[0] for case in CASES]),
    st.lists(st.sampled_from([case[0] for case in CASES]), max_size=3).map(" ".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join),
    st.text(max_size=60),
)


@settings(max_examples=500, deadline=None)
@given(text=texts, cuts=st.lists(st.integers(0, 500), max_size=12))
def test_any_cut_gives_the_same_calls_and_the_same_text(text: str, cuts: list[int]) -> None:
    whole = seen(read([text]))
    assert seen(read(pieces(text, cuts))) == whole
    assert seen(read(list(text))) == whole


@pytest.mark.parametrize("text", [case[0] for case in CASES])
def test_character_by_character_is_the_same_as_at_once(text: str) -> None:
    assert seen(read(list(text))) == seen(read([text]))


def test_ten_thousand_random_texts_never_raise_and_lose_nothing_but_calls() -> None:
    rng = random.Random(43)
    for number in range(10_000):
        if number % 4:
            text = "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(0, 40)))
        else:
            text = "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0x110000)))) for _ in range(60))
        found = read_calls(text, TOOLS)
        if not found.calls:
            assert found.text == text
        else:
            assert len(found.text) < len(text)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
calls = st.builds(
    ToolCall,
    st.sampled_from([tool.name for tool in TOOLS[:2]]),
    st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), json_values, max_size=4),
)


@settings(max_examples=150, deadline=None)
@given(
    asked=st.lists(calls, min_size=1, max_size=3),
    form=st.sampled_from(["python", "json", "tag"]),
    prose=st.sampled_from(["", "Let me see. "]),
)
def test_what_is_written_is_read_back(asked: list[ToolCall], form: str, prose: str) -> None:
    match form:
        case "python":
            text = write_calls(asked)
        case "json":
            text = json.dumps([{"name": call.name, "parameters": call.arguments} for call in asked])
        case _:
            text = "".join(f"<function={call.name}>{json.dumps(call.arguments)}</function>" for call in asked)
    found = read_calls(prose + text, TOOLS)
    assert list(found.calls) == asked
    assert found.text == prose.strip()


@settings(max_examples=100, deadline=None)
@given(call=calls, cuts=st.lists(st.integers(0, 500), max_size=12))
def test_the_deltas_of_a_call_join_to_the_json_of_its_arguments(call: ToolCall, cuts: list[int]) -> None:
    events = read(pieces(write_calls([call]), cuts))
    assert arguments_of(events, 0) == call.arguments
    kinds = [type(event) for event in events]
    assert kinds[0] is ToolCallStarted
    assert kinds[-1] is ToolCallReady
    assert set(kinds[1:-1]) == {ToolCallDelta}


def test_arguments_stream_while_they_are_written() -> None:
    reader = CallReader(TOOLS)
    assert reader.feed("[f(") == []
    assert reader.feed('text="Once upon') == [ToolCallStarted(0, "f"), ToolCallDelta(0, '{"text": "Once upon')]
    assert reader.feed(" a time") == [ToolCallDelta(0, " a time")]
    assert reader.feed('"') == [ToolCallDelta(0, '"')]
    assert reader.feed(")") == [ToolCallDelta(0, "}"), ToolCallReady(0, ToolCall("f", {"text": "Once upon a time"}))]
    assert reader.feed("]") == []
    assert reader.end() == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Hello there", "Hello there"),
        ("Hello there ", "Hello there"),
        ("See [", "See"),
        ("See [1", "See [1"),
        ("See [get_w", "See"),
        ("See [get_x", "See [get_x"),
        ('{"na', ""),
        ('{"nb', '{"nb'),
        ('{"name": "x', '{"name": "x'),
        ("a < b", "a < b"),
        ("a <|py", "a"),
        ("``", ""),
        ("```c", "```c"),
    ],
)
def test_only_what_may_still_become_a_call_is_held_back(text: str, shown: str) -> None:
    reader = CallReader(TOOLS)
    assert "".join(event.text for event in reader.feed(text) if isinstance(event, TextDelta)) == shown
    assert seen([*CallReader(TOOLS).feed(text)])[1] == shown


def test_a_call_that_breaks_off_is_text_and_never_ready() -> None:
    events = read(["Well. ", '[f(a="x', "half"])
    shown = [TextDelta, ToolCallStarted, ToolCallDelta, ToolCallDelta, TextDelta]
    assert [type(event) for event in events] == shown
    assert seen(events) == ([], 'Well. [f(a="xhalf')


def test_a_call_after_a_malformed_one_has_an_index_of_its_own() -> None:
    events = read(["[f(a=1, b", "=c)] [g(a=1)]"])
    ready = [event for event in events if isinstance(event, ToolCallReady)]
    assert [(event.index, event.call.name, event.call.id) for event in ready] == [(1, "g", "id1")]


def test_ids_number_the_calls() -> None:
    assert [event.call.id for event in seen(read(["[f(), g()]"]))[0]] == ["id0", "id1"]
    assert [event.call.id for event in seen(read(["[f(), g()]"], ids=None))[0]] == [None, None]


def test_log_probabilities_stay_with_their_text() -> None:
    reader = CallReader(TOOLS)
    tokens = ["Let", " me", " see.", " [", "f(a", "=1)", "] ", "Done", "."]
    given = [TokenLogprob(token, -float(place)) for place, token in enumerate(tokens)]
    events = [event for logprob in given for event in reader.feed(logprob.text, (logprob,))] + reader.end()
    kept = [logprob.text for event in events if isinstance(event, TextDelta) for logprob in event.logprobs]
    assert kept == ["Let", " me", " see.", "] ", "Done", "."]


@pytest.mark.parametrize(
    "text",
    [
        "[f(a=" * 6_000,
        '[f(a="' * 6_000,
        "[f(a='[f(a=\"" * 3_000,
        "[" * 30_000,
        "{" * 30_000,
        '{"parameters": ' * 3_000,
        '{"name": "f", "parameters": {"a": [' + "1, " * 15_000,
        "[f(a=" + "9" * 30_000,
        "[f(" + "a" * 30_000,
        " " * 50_000,
        "<" * 30_000,
        "`" * 30_000,
        '[f(a="' + "x" * 1_100_000,
        "word [1] " * 6_000,
    ],
    ids=range(14),
)
def test_hostile_texts_stay_text(text: str) -> None:
    assert read_calls(text, TOOLS).text == text
    rest = [text[place : place + 61] for place in range(0, len(text), 61)]
    assert seen(read(rest)) == ([], text)


def test_an_answer_has_a_limited_number_of_calls() -> None:
    found = read_calls("[" + ", ".join(["f(a=1)"] * (MAX_CALLS + 3)) + "]", TOOLS)
    assert len(found.calls) == MAX_CALLS
    assert found.text == ", f(a=1), f(a=1), f(a=1)]"


def test_without_tools_everything_is_text() -> None:
    assert read_calls("[f(a=1)]", []).text == "[f(a=1)]"


@pytest.mark.parametrize("mark", ["<|eom|>", "<|eot|>", "<|python_end|>", "<|python_end|><|eom|>"])
def test_marks_behind_a_call_do_not_stay_in_the_text(mark: str) -> None:
    tools = [ToolSpec("f", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})]
    for text in (
        f"[f(a=1)]{mark}",
        f"<|python_start|>[f(a=1)]{mark}",
        f'{{"name": "f", "parameters": {{"a": 1}}}}{mark}',
    ):
        read = read_calls(text, tools)
        assert [each.arguments for each in read.calls] == [{"a": 1}]
        assert read.text == ""
    assert read_calls(f"words {mark}", tools).text == f"words {mark}"


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ("g(x=b'z')", "g"),
        ("unknown(x=1)", "unknown"),
        ("g(x=1e999)", "g"),
        ("g(x=[1, 2)", "g"),
        ("g(x=open('a, b]'))", "g"),
        ('{"name": "g", "parameters": {x: 1}}', "g"),
        ("42", None),
        ("'words, in quotes]'", None),
    ],
)
@pytest.mark.parametrize("behind", ["", ", f(a=2)"])
def test_a_bad_item_of_a_list_keeps_the_good_ones_and_becomes_a_problem(
    bad: str, name: str | None, behind: str
) -> None:
    tools = [ToolSpec("f", parameters={"type": "object", "properties": {"a": {}}}), ToolSpec("g")]
    text = f"[f(a=1), {bad}{behind}]"
    whole = read_calls(text, tools)
    assert whole.text == ""
    assert [call.arguments for call in whole.calls if call.problem is None] == [{"a": 1}, {"a": 2}][: 1 + bool(behind)]
    assert [call.name for call in whole.calls if call.problem] == [name][: bool(name)]
    for size in (1, 3, 7):
        reader = CallReader(tools)
        events = [event for i in range(0, len(text), size) for event in reader.feed(text[i : i + size])] + reader.end()
        assert [event.call for event in events if isinstance(event, ToolCallReady)] == list(whole.calls)
