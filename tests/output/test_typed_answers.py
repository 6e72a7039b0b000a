"""Typed answers through the client: partial objects, the object, repair, and what is no answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from llama4sdk import Done, Llama4, OutputInvalid, Partial, Sampling, StreamInterrupted, TextDelta, ToolSpec
from llama4sdk.output.partial import PartialReader
from llama4sdk.testing import ScriptedBackend


class City(BaseModel):
    name: str
    people: int


FITS = '{"name": "Paris", "people": 2}'


async def partials(*steps: str, output: object = City) -> list[Any]:
    backend = ScriptedBackend([TextDelta(step) for step in steps])
    async with Llama4(backend) as llama, llama.stream("?", output=output) as stream:
        return [event.value async for event in stream if isinstance(event, Partial)]


async def test_the_object_is_the_output() -> None:
    backend = ScriptedBackend(f"Here: {FITS}")
    async with Llama4(backend) as llama:
        reply = await llama.chat("?", output=City)
    assert reply.output == City(name="Paris", people=2)
    assert reply.text == f"Here: {FITS}"
    assert backend.requests[0].output is not None
    assert backend.requests[0].output.name == "City"


async def test_partial_objects_hold_only_what_is_closed() -> None:
    steps = ['{"na', 'me": "Par', 'is"', ', "people": 1', "2", "}", " ok"]
    assert await partials(*steps) == [
        {"name": "Paris"},
        {"name": "Paris", "people": 12},
        City(name="Paris", people=12),
    ]


async def test_partial_lists_grow_by_their_closed_parts() -> None:
    assert await partials('[{"n": [1', ", 2", ', 3], "m"', ": null}, ", '"x"]', output=list[Any]) == [
        [{"n": [1]}],
        [{"n": [1, 2, 3]}],
        [{"n": [1, 2, 3], "m": None}],
        [{"n": [1, 2, 3], "m": None}, "x"],
        [{"n": [1, 2, 3], "m": None}, "x"],
    ]


async def test_a_single_value_has_no_parts() -> None:
    assert await partials("4", "2", output=int) == [42]


def so_far(pieces: Sequence[str]) -> list[Any]:
    reader = PartialReader(["object", "array"])
    shown: list[Any] = []
    for piece in pieces:
        if reader.feed(piece):
            try:
                shown.append(reader.value())
            except ValueError:
                continue
    return shown


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(is_part, part, whole))
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and is_part(item, whole[key]) for key, item in part.items())
    return part == whole


@settings(max_examples=100, deadline=None)
@given(
    value=st.lists(values, min_size=1) | st.dictionaries(st.text(max_size=5), values, min_size=1),
    cuts=st.lists(st.integers(0, 300), max_size=20),
    indent=st.sampled_from([None, 1]),
)
def test_every_partial_value_is_a_part_of_the_whole(value: Any, cuts: list[int], indent: int | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    places = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    shown = so_far([text[begin:end] for begin, end in pairwise(places)])
    assert shown[-1] == value
    assert all(is_part(before, after) for before, after in pairwise(shown))
    assert all(is_part(part, value) for part in shown)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(['{"a":', '"', "[", "]", "{", "}", ",", "1", "tru", ":", "\\", " ", "x"]), max_size=30))
def test_text_that_is_no_json_never_raises(pieces: list[str]) -> None:
    so_far(pieces)


def test_a_long_answer_costs_linear_work() -> None:
    pieces = ["[", *(f'{{"number": {n}}},' for n in range(20_000)), "0]"]
    shown = so_far(pieces)
    assert len(shown) < 1_000
    assert len(shown[-1]) == 20_001


async def test_what_does_not_fit_is_an_error_with_the_raw_answer() -> None:
    async with Llama4(ScriptedBackend('{"name": "Paris"}')) as llama:
        with pytest.raises(OutputInvalid, match="people") as caught:
            await llama.chat("?", output=City)
    assert caught.value.raw == '{"name": "Paris"}'
    assert (caught.value.backend, caught.value.retryable) == ("scripted", False)
    assert caught.value.request_id


async def test_one_repair_round_when_asked() -> None:
    backend = ScriptedBackend('{"name": "Paris"}', FITS)
    async with Llama4(backend) as llama:
        reply = await llama.chat("?", output=City, repair=1)
    assert reply.output == City(name="Paris", people=2)
    again = backend.requests[1].messages
    assert [message.role for message in again] == ["user", "assistant", "user"]
    assert again[1].text == '{"name": "Paris"}'
    assert "people: Field required" in again[2].text
    assert reply.usage.completion_tokens == 2 + 4


async def test_repair_gives_up_after_as_many_rounds_as_asked() -> None:
    backend = ScriptedBackend("no")
    async with Llama4(backend) as llama:
        with pytest.raises(OutputInvalid):
            await llama.chat("?", output=City, repair=2)
    assert len(backend.requests) == 3


async def test_a_cut_answer_says_length_and_has_no_output() -> None:
    async with Llama4(ScriptedBackend(FITS)) as llama:
        reply = await llama.chat("?", output=City, sampling=Sampling(max_tokens=3))
    assert (reply.finish_reason, reply.output, reply.text) == ("length", None, '{"name": "Paris", "people":')


async def test_a_broken_off_answer_shows_what_was_closed_but_is_no_answer() -> None:
    steps = [TextDelta('{"name": "Paris", "peo'), StreamInterrupted("gone")]
    async with Llama4(ScriptedBackend(steps)) as llama:
        with pytest.raises(StreamInterrupted) as caught:
            await llama.chat("?", output=City)
    assert caught.value.partial is not None
    assert caught.value.partial.output == {"name": "Paris"}
    assert not caught.value.partial.complete


async def test_a_cancelled_answer_has_no_output() -> None:
    backend = ScriptedBackend(['{"name": "Paris", "peo', 60.0])
    async with Llama4(backend) as llama, llama.stream("?", output=City) as stream:
        async for event in stream:
            if isinstance(event, Partial):
                await stream.cancel()
        assert stream.snapshot.finish_reason == "cancelled"
        assert stream.snapshot.output is None


async def test_tool_calls_come_before_the_typed_answer() -> None:
    from tools.written import Writes

    async with Llama4(Writes("[now()]")) as llama:
        reply = await llama.chat("?", tools=[ToolSpec("now")], output=City)
    assert (reply.finish_reason, reply.output) == ("tool_calls", None)


async def test_done_stays_the_last_event() -> None:
    async with Llama4(ScriptedBackend(FITS)) as llama, llama.stream("?", output=City) as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], Done)
    assert events[-2] == Partial(City(name="Paris", people=2))
