"""Fragments of broken JSON are never the typed answer, and numbers and surrogates have one documented fate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from llama4sdk import Llama4, OutputInvalid, Partial
from llama4sdk.output import answer_form
from llama4sdk.output.form import MisfitError
from llama4sdk.testing import ScriptedBackend


class Node(BaseModel):
    """A tree."""

    name: str
    children: list[Node] = []


ROOT = '{"name": "root", "children": [{"name": "kid"}]}'


def parsed(text: str, output: Any) -> object:
    form = answer_form(output)
    assert form
    return form.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "root", "children": [{"name": "kid"},]}',
        '{"name": "root", "children": [{"name": "kid"}',
        '{"name": "root" "children": [{"name": "kid"}]}',
        '{"name": root, "children": [{"name": "kid"}]}',
        'Sure: {"name": "root", "children": [{"name": "kid"},]} as you asked.',
        '```json\n{"name": "root", "children": [{"name": "kid"},]}\n```',
        "{'name': 'root', 'children': [{\"name\": \"kid\"}]}",
        '[{"name": "kid"},, {"name": "kid"}]',
    ],
)
async def test_a_fragment_inside_broken_json_is_never_the_answer(text: str) -> None:
    with pytest.raises(MisfitError):
        parsed(text, Node)
    async with Llama4(ScriptedBackend([*text])) as llama, llama.stream("?", output=Node) as stream:
        shown: list[Any] = []
        with pytest.raises(OutputInvalid):
            async for event in stream:
                if isinstance(event, Partial):
                    shown.append(event.value)
    assert all(part.get("name") == "root" for part in shown)


@given(st.integers(1, len(ROOT) - 1))
def test_a_cut_answer_is_no_answer(length: int) -> None:
    with pytest.raises(MisfitError):
        parsed(ROOT[:length], Node)


@pytest.mark.parametrize(
    "text",
    [
        "The set {a, b} holds it: " + ROOT,
        ROOT + " (in {braces})",
        "Before {x} " + ROOT + " after",
        'First {"a": 1,} and then ' + ROOT,
    ],
)
def test_braces_in_prose_and_earlier_broken_values_hide_no_answer(text: str) -> None:
    assert parsed(text, Node) == Node.model_validate_json(ROOT)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400 + ".0"])
def test_numbers_that_are_not_finite_are_refused_alike(number: str) -> None:
    for output in (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}):
        with pytest.raises(MisfitError):
            parsed(f'{{"a": {number}}}', output)


@pytest.mark.parametrize("output", [dict[str, str], {"type": "object"}])
def test_a_lone_surrogate_becomes_the_replacement_character(output: Any) -> None:
    assert parsed('{"a": "x\\ud800y"}', output) == {"a": "x\ufffdy"}
    assert parsed('{"a": "\\ud83d\\ude00"}', output) == {"a": "\U0001f600"}


def test_json_that_does_not_fit_is_no_string_where_an_object_would_do() -> None:
    for text in ('{"b": 1}', '{"name": 1}', '[{"name": "kid"}'):
        with pytest.raises(MisfitError):
            parsed(text, Node | str)
    assert parsed("plain words", Node | str) == "plain words"
    assert parsed('{"b": 1}', str) == '{"b": 1}'
    assert parsed(json.dumps({"name": "x"}), Node | str) == Node(name="x")


class Reading(BaseModel):
    """A value of an instrument."""

    value: float


@pytest.mark.parametrize("text", ["NaN", "-Infinity", '"nan"', '" inf "', "1e999", '"1e999"'])
def test_a_number_in_words_is_no_way_around_the_refusal(text: str) -> None:
    with pytest.raises(MisfitError):
        parsed(text, float)
    with pytest.raises(MisfitError):
        parsed(f'{{"value": {text}}}', Reading)
    assert parsed(json.dumps({"value": text}), dict[str, str]) == {"value": text}


def test_what_a_model_thinks_is_not_its_answer() -> None:
    assert parsed('<think>{"name": "no"}</think>\n{"name": "kid"}', Node) == Node(name="kid")
    assert parsed("<think>never ends", str) == "<think>never ends"
    with pytest.raises(MisfitError):
        parsed('<think>{"name": "no"}</think>I cannot say.', Node)
