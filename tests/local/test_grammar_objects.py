"""Grammars of objects with limits on the number and the names of their fields."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from llama4_local.decoding.grammar import Grammars
from llama4sdk import InvalidRequest, OutputSpec, ToolSpec
from llama4sdk.output import JsonSchema
from llama4sdk.output.fitting import fit
from llama4sdk.prompting import Tokenizer
from local.grammar_writing import MANY, accepts, asked, written
from local.random_forms import random_counted_object

OBJECT: dict[str, Any] = {"type": "object", "properties": {name: {"type": "integer"} for name in "abc"}}


@pytest.mark.parametrize(
    ("more", "text", "may"),
    [
        ({"minProperties": 2}, '{"a": 1, "c": 2}', True),
        ({"minProperties": 2}, '{"a": 1}', False),
        ({"maxProperties": 1}, '{"b": 1}', True),
        ({"maxProperties": 1}, '{"a": 1, "b": 1}', False),
        ({"maxProperties": 0}, "{}", True),
        ({"maxProperties": 0}, '{"a": 1}', False),
        ({"minProperties": 2.0, "maxProperties": 2.0}, '{"b": 1, "c": 1}', True),
        ({"minProperties": 2, "required": ["c"]}, '{"a": 1, "b": 1}', False),
        ({"minProperties": 2, "required": ["c"]}, '{"b": 1, "c": 1}', True),
        ({"propertyNames": {"pattern": "^[ab]$"}}, '{"a": 1, "b": 1}', True),
        ({"propertyNames": {"pattern": "^[ab]$"}}, '{"c": 1}', False),
        ({"propertyNames": False}, "{}", True),
        ({"propertyNames": False}, '{"a": 1}', False),
        ({"patternProperties": {"^a$": {"minimum": 5}}}, '{"a": 6, "b": 1}', True),
        ({"patternProperties": {"^a$": {"minimum": 5}}}, '{"a": 4}', False),
        ({"patternProperties": {"^a$": False}}, '{"a": 4}', False),
        ({"required": ["z"], "additionalProperties": {"type": "boolean"}}, '{"a": 4, "z": true}', True),
        ({"required": ["z"], "additionalProperties": {"type": "boolean"}}, '{"a": 4, "z": 1}', False),
        ({"properties": {}, "additionalProperties": {"type": "integer"}, "minProperties": 1}, "{}", False),
        ({"properties": {}, "additionalProperties": {"type": "integer"}, "minProperties": 1}, '{"q": 1}', True),
        ({"properties": {}, "additionalProperties": True, "maxProperties": 1}, '{"q": 1, "r": 2}', False),
        ({"properties": {}, "maxProperties": 0}, "{}", True),
    ],
)
def test_the_number_and_the_names_of_fields_are_kept(
    grammars: Grammars, tokenizer: Tokenizer, more: dict[str, Any], text: str, may: bool
) -> None:
    schema = OBJECT | more
    assert accepts(grammars, tokenizer, asked(output=OutputSpec(schema)), text) is may
    assert (fit(JsonSchema(schema), json.loads(text))[1] == []) is may


@pytest.mark.parametrize(
    "more",
    [
        {"minProperties": 4},
        {"required": ["a", "b"], "maxProperties": 1},
        {"required": ["a"], "propertyNames": {"maxLength": 0}},
        {"required": ["z"], "additionalProperties": False},
        {"properties": {}, "additionalProperties": False, "minProperties": 1},
        {"properties": {}, "minProperties": 3, "maxProperties": 2},
    ],
)
def test_an_object_that_cannot_be_written_is_refused(grammars: Grammars, more: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        grammars.mask_for(asked(output=OutputSpec(OBJECT | more)))


def test_random_objects_with_limits_on_their_fields_give_valid_answers(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    rng, ended = random.Random(3), 0
    for number in range(MANY * 4):
        schema = random_counted_object(rng)
        text = written(grammars, tokenizer, asked(output=OutputSpec(schema)), number)
        if text is not None:
            ended += 1
            assert fit(JsonSchema(schema), json.loads(text))[1] == [], (schema, text)
    assert ended > MANY * 3


@pytest.mark.parametrize(("text", "may"), [("[f(a=1)]", False), ("[f(a=1, b=2)]", True), ("[f(a=1, b=2, c=3)]", False)])
def test_the_number_of_a_calls_arguments_is_kept(
    grammars: Grammars, tokenizer: Tokenizer, text: str, may: bool
) -> None:
    tool = ToolSpec("f", "", OBJECT | {"minProperties": 2, "maxProperties": 2})
    assert accepts(grammars, tokenizer, asked(tools=(tool,), tool_choice="required"), text) is may
