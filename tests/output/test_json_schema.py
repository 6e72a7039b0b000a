"""JSON schemas from callers: limits, what is checked, and what is mended."""

from __future__ import annotations

from typing import Any

import pytest

from llama4sdk import InvalidRequest
from llama4sdk.output import JsonSchema
from llama4sdk.output.fitting import fit


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (nested(10_000), "levels deep"),
        ({"enum": list(range(200_000))}, "more than 100,000"),
        ({"type": "string", "pattern": "(a{1000}){1000}"}, "pattern"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "("}, "pattern"),
        ({"type": "string", "pattern": "a" * 20_000}, "pattern"),
        ({"$ref": "https://example.com/schema"}, "only places within it"),
        ({"$ref": "#/$defs/missing"}, "not in it"),
        ({"$ref": "#/type", "type": "object"}, "no schema"),
        ({"type": "thing"}, "no such type"),
        ({"properties": []}, "no dict"),
        ({"anyOf": {}}, "no list"),
        ({"required": "x"}, "no list"),
        ({"items": 3}, "no schema"),
        ({"minimum": "1"}, "no number"),
        ({"multipleOf": 0}, "multipleOf"),
        ({"unevaluatedProperties": False}, "not supported"),
        ({1: 2}, "strings"),
        ({"default": object()}, "JSON values only"),
        ([], "a dict"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fault_48_a_schema_that_cannot_be_used_is_refused_at_once(schema: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        JsonSchema(schema)


def test_fault_48_a_pattern_that_backtracks_elsewhere_takes_no_time() -> None:
    schema = JsonSchema({"type": "string", "pattern": "^(a+)+$"})
    assert fit(schema, "a" * 100_000 + "!")[1]
    assert not fit(schema, "a" * 100_000)[1]


def test_fault_48_alternatives_that_multiply_end() -> None:
    twice = {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}
    assert fit(JsonSchema({"$defs": {"a": twice}, "$ref": "#/$defs/a"}), 1)[1]
    chain = {f"s{n}": {"anyOf": [{"$ref": f"#/$defs/s{n + 1}"}] * 2} for n in range(90)}
    assert fit(JsonSchema({"$defs": {**chain, "s90": {"type": "string"}}, "$ref": "#/$defs/s0"}), 1)[1]


def test_fault_49_a_schema_that_refers_to_itself_is_supported() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}}, "required": ["n"]}
    schema = JsonSchema(tree)
    assert fit(schema, {"n": 1, "next": {"n": "2"}}) == ({"n": 1, "next": {"n": 2}}, [])
    assert fit(schema, {"n": 1, "next": {}})[1] == ["next.n: is missing"]
    assert fit(JsonSchema({"$ref": "#"}), 1)[1]


S: dict[str, Any] = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "value", "fitted"),
    [
        ({"type": "integer"}, "3", 3),
        ({"type": "integer"}, "3.0", 3),
        ({"type": "integer"}, 3.0, 3),
        ({"type": "number"}, "-1.5", -1.5),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "false", False),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({"type": "array", "items": {"type": "integer"}}, '["1"]', [1]),
        ({"type": ["integer", "null"]}, None, None),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "3", 3),
        ({"anyOf": [{"type": "integer"}, S]}, "3", "3"),
        ({"oneOf": [{"type": "integer"}, {"type": "boolean"}]}, True, True),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", 1]}, "1", "1"),
        ({"const": None}, None, None),
        ({"type": "array", "prefixItems": [S, {"type": "integer"}]}, ["a", "1"], ["a", 1]),
        ({"additionalProperties": {"type": "integer"}}, {"x": "1"}, {"x": 1}),
        ({"patternProperties": {"^n_": {"type": "integer"}}}, {"n_x": "1", "y": "1"}, {"n_x": 1, "y": "1"}),
        ({"allOf": [{"type": "integer"}, {"minimum": 2}]}, "3", 3),
        ({"if": {"type": "string"}, "then": {"minLength": 1}, "else": {"minimum": 1}}, 1, 1),
        (True, "x", "x"),
    ],
)
def test_what_is_surely_meant_is_mended(schema: Any, value: Any, fitted: Any) -> None:
    found, problems = fit(JsonSchema({"allOf": [schema]}), value)
    assert problems == []
    assert found == fitted
    assert type(found) is type(fitted)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 1.5),
        ({"type": "integer"}, True),
        ({"type": "integer"}, "x"),
        ({"type": "number"}, "NaN"),
        ({"type": "number"}, "[" * 100_000),
        (S, 3),
        ({"type": "boolean"}, 1),
        ({"type": "null"}, "null"),
        ({"enum": ["a", 1]}, True),
        ({"const": {"a": [1]}}, {"a": [True]}),
        ({"minimum": 1}, 0),
        ({"maximum": 1}, 2),
        ({"exclusiveMinimum": 1}, 1),
        ({"exclusiveMaximum": 1}, 1),
        ({"multipleOf": 0.1}, 0.25),
        ({"multipleOf": 3}, 10),
        ({"minLength": 2}, "x"),
        ({"maxLength": 2}, "xxx"),
        ({"pattern": "^a"}, "ba"),
        ({"minItems": 1}, []),
        ({"maxItems": 1}, [1, 2]),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 1}]),
        ({"items": False}, [1]),
        ({"contains": {"type": "integer"}}, ["x"]),
        ({"contains": S, "maxContains": 1}, ["x", "y"]),
        ({"required": ["a"]}, {}),
        ({"properties": {"a": S}, "additionalProperties": False}, {"b": 1}),
        ({"minProperties": 1}, {}),
        ({"maxProperties": 0}, {"a": 1}),
        ({"propertyNames": {"pattern": "^a"}}, {"b": 1}),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}),
        ({"not": S}, "x"),
        ({"anyOf": [S, {"type": "null"}]}, 1),
        ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, 2),
        ({"if": S, "then": {"minLength": 1}}, ""),
        (False, 1),
    ],
)
def test_what_does_not_fit_is_said(schema: Any, value: Any) -> None:
    _, problems = fit(JsonSchema({"allOf": [schema]}), value)
    assert problems


def test_places_are_named() -> None:
    schema = JsonSchema({"properties": {"list": {"items": {"properties": {"n": {"type": "integer"}}}}}})
    assert fit(schema, {"list": [{"n": 1}, {"n": "x"}]})[1] == ["list[1].n: is string, not integer"]


@pytest.mark.parametrize(
    ("place", "value", "fitting"),
    [
        ({"pattern": "^a"}, "b", False),
        ({"patternProperties": {"^a": {"type": "integer"}}}, {"a": "x"}, False),
        ({"patternProperties": {"^a": {"type": "integer"}}}, {"a": 1}, True),
        ({"anyOf": [{"pattern": "^a"}, {"minimum": 3}]}, "a", True),
    ],
)
def test_a_reference_to_a_place_that_no_keyword_leads_to_is_followed(
    place: dict[str, Any], value: object, fitting: bool
) -> None:
    schema = JsonSchema({"$ref": "#/x-shared/y", "x-shared": {"y": {"$ref": "#/x-other"}}, "x-other": place})
    assert (fit(schema, value, mending=False)[1] == []) is fitting


@pytest.mark.parametrize("place", [{"type": "text"}, {"minimum": "3"}, {"enum": 3}, {"pattern": "(?=a)"}, {"items": 5}])
def test_what_is_referred_to_is_checked_wherever_it_stands(place: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        JsonSchema({"$ref": "#/x-shared/y", "x-shared": {"y": {"$ref": "#/x-other"}}, "x-other": place})
