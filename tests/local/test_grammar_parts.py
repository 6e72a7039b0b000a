"""Grammars of objects that several schemas describe at once: `allOf`, `$ref`, and alternatives beside fields."""

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
from local.random_forms import random_object_in_parts

NUMBER: dict[str, Any] = {"type": "integer"}
BASE: dict[str, Any] = {"type": "object", "properties": {"a": NUMBER}, "required": ["a"]}
DEFINED: dict[str, Any] = {"$defs": {"base": BASE}}
NODE: dict[str, Any] = {
    "type": "object",
    "allOf": [{"$ref": "#/$defs/base"}],
    "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["next"],
}


@pytest.mark.parametrize(
    ("schema", "text", "may"),
    [
        ({"allOf": [BASE, {"propertyNames": {"maxLength": 1}}]}, '{"a": 1}', True),
        ({"allOf": [BASE, {"required": ["b"]}]}, '{"a": 1}', False),
        ({"allOf": [BASE, {"required": ["b"]}]}, '{"a": 1, "b": true}', True),
        ({"allOf": [BASE, {"properties": {"a": {"minimum": 5}}}]}, '{"a": 4}', False),
        ({"allOf": [BASE, {"properties": {"a": {"minimum": 5}}}]}, '{"a": 5}', True),
        ({"allOf": [BASE], "properties": {"b": NUMBER}, "maxProperties": 1}, '{"a": 1, "b": 1}', False),
        ({"allOf": [BASE], "properties": {"b": NUMBER}, "minProperties": 2}, '{"a": 1}', False),
        ({"allOf": [BASE], "properties": {"b": NUMBER}, "minProperties": 2}, '{"a": 1, "b": 1}', True),
        ({"allOf": [BASE], "propertyNames": {"enum": ["a"]}, "properties": {"b": NUMBER}}, '{"a": 1, "b": 1}', False),
        ({**DEFINED, "$ref": "#/$defs/base", "properties": {"b": NUMBER}}, '{"a": 1, "b": 1}', True),
        ({**DEFINED, "$ref": "#/$defs/base", "properties": {"b": NUMBER}}, '{"b": 1}', False),
        ({**BASE, "anyOf": [{"required": ["b"]}, {"required": ["c"]}]}, '{"a": 1, "c": 1}', True),
        ({**BASE, "anyOf": [{"required": ["b"]}, {"required": ["c"]}]}, '{"a": 1}', False),
        ({**BASE, "oneOf": [{"additionalProperties": False, "required": ["b"]}, True]}, '{"a": 1}', True),
        ({"anyOf": [{"type": "array", "items": False, "minItems": 1}, NUMBER]}, "3", True),
        ({"type": "object", "properties": {"a": {"enum": [1], "type": "string"}, "b": NUMBER}}, '{"b": 1}', True),
        ({**DEFINED, **NODE}, '{"a": 1, "next": {"a": 2, "next": null}}', True),
        ({**DEFINED, **NODE}, '{"a": 1, "next": {"next": null}}', False),
        (
            {
                "type": "object",
                "allOf": [{"patternProperties": {"^b": NUMBER}, "additionalProperties": False}],
                "required": ["bx"],
            },
            '{"bx": 1}',
            True,
        ),
    ],
)
def test_all_parts_of_an_object_are_kept(
    grammars: Grammars, tokenizer: Tokenizer, schema: dict[str, Any], text: str, may: bool
) -> None:
    assert accepts(grammars, tokenizer, asked(output=OutputSpec(schema)), text) is may
    assert (fit(JsonSchema(schema), json.loads(text), mending=False)[1] == []) is may


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{**BASE, "additionalProperties": False}, {"patternProperties": {"^b": NUMBER}}], "required": ["bx"]},
        {"allOf": [BASE, {"properties": {"a": False}}]},
        {"allOf": [BASE, {"minProperties": 3}, {"maxProperties": 2}]},
        {"type": "object", "anyOf": [{"required": ["a"], "additionalProperties": False}]},
        {"type": "object", "required": ["n"], "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"enum": []}}},
    ],
)
def test_parts_that_no_object_fits_are_refused(grammars: Grammars, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        grammars.mask_for(asked(output=OutputSpec(schema)))


def test_a_rule_of_what_no_value_fits_is_not_used_again(grammars: Grammars, tokenizer: Tokenizer) -> None:
    impossible = {"$ref": "#/$defs/n"}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"a": impossible, "b": impossible, "c": NUMBER},
        "$defs": {"n": {"type": "object", "required": ["x"], "additionalProperties": False}},
    }
    request = asked(output=OutputSpec(schema))
    assert accepts(grammars, tokenizer, request, '{"c": 1}')
    assert not accepts(grammars, tokenizer, request, '{"b": ')


def test_the_parts_of_a_tools_arguments_are_kept(grammars: Grammars, tokenizer: Tokenizer) -> None:
    tool = ToolSpec("f", "", {"type": "object", "allOf": [BASE], "properties": {"b": NUMBER}})
    request = asked(tools=(tool,), tool_choice="required")
    assert accepts(grammars, tokenizer, request, "[f(a=1, b=2)]")
    assert not accepts(grammars, tokenizer, request, "[f(b=2)]")


def test_objects_in_random_parts_give_valid_answers_or_are_refused(grammars: Grammars, tokenizer: Tokenizer) -> None:
    rng, ended = random.Random(4), 0
    for number in range(MANY):
        schema = random_object_in_parts(rng)
        try:
            text = written(grammars, tokenizer, asked(output=OutputSpec(schema)), number)
        except InvalidRequest:
            continue
        if text is not None:
            ended += 1
            assert fit(JsonSchema(schema), json.loads(text), mending=False)[1] == [], (schema, text)
    assert ended > MANY // 3
