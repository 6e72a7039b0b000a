"""Older drafts and looser dialects of JSON Schema are rewritten as draft 2020-12 has them."""

from __future__ import annotations

from typing import Any

import pytest

from llama4sdk import InvalidRequest, OutputSpec, ToolSpec
from llama4sdk.output import JsonSchema
from llama4sdk.output.fitting import fit
from llama4sdk.schema_drafts import modern
from llama4sdk.tools import specs_of, tool

META_EXAMPLE = {  # in the form of Meta's prompt format page
    "type": "dict",
    "required": ["city"],
    "properties": {
        "city": {"type": "string", "description": "The city."},
        "share": {"type": "float", "default": 0.5},
        "place": {"type": "tuple", "items": {"type": "float"}},
        "extra": {"type": "any"},
    },
}
META_MODERN = {
    "type": "object",
    "required": ["city"],
    "properties": {
        "city": {"type": "string", "description": "The city."},
        "share": {"type": "number", "default": 0.5},
        "place": {"type": "array", "items": {"type": "number"}},
        "extra": {},
    },
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (META_EXAMPLE, META_MODERN),
        ({"type": "String"}, {"type": "string"}),
        ({"type": "OBJECT"}, {"type": "object"}),
        ({"type": ["int", "None"]}, {"type": ["integer", "null"]}),
        ({"type": ["any", "null"]}, {}),
        ({"items": [{"type": "int"}, True]}, {"prefixItems": [{"type": "integer"}, True]}),
        ({"items": [{}], "additionalItems": False}, {"prefixItems": [{}], "items": False}),
        ({"items": [], "additionalItems": {"type": "int"}}, {"items": {"type": "integer"}}),
        ({"items": {}, "additionalItems": False}, {"items": {}}),
        ({"minimum": 3, "exclusiveMinimum": True}, {"exclusiveMinimum": 3}),
        ({"maximum": 3, "exclusiveMaximum": False}, {"maximum": 3}),
        ({"exclusiveMaximum": True}, {}),
        (
            {"dependencies": {"a": ["b"], "c": {"required": ["d"]}, "e": "f"}},
            {"dependentRequired": {"a": ["b"], "e": ["f"]}, "dependentSchemas": {"c": {"required": ["d"]}}},
        ),
        (
            {"properties": {"a": {"type": "int", "required": True}, "b": {"required": False}}, "required": ["b"]},
            {"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["b", "a"]},
        ),
        ({"maxItems": 2.0, "minLength": 1.0}, {"maxItems": 2, "minLength": 1}),
        (
            {"definitions": {"n": {"type": "float"}}, "$ref": "#/definitions/n"},
            {"definitions": {"n": {"type": "number"}}, "$ref": "#/definitions/n"},
        ),
        (
            {"items": [{"type": "long"}], "additionalItems": {"$ref": "#/items/0"}},
            {"prefixItems": [{"type": "integer"}], "items": {"$ref": "#/prefixItems/0"}},
        ),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "not": {"$ref": "#/definitions/a", "minimum": 1}},
            {"$schema": "http://json-schema.org/draft-07/schema#", "not": {"$ref": "#/definitions/a"}},
        ),
    ],
)
def test_forms_of_older_drafts_are_rewritten(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert modern(old) == new
    assert modern(new) == new


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [{"type": "dict", "items": []}], "const": {"exclusiveMinimum": True}},
        {"properties": {"type": {"type": "string"}, "items": {"type": "array"}, "required": {"type": "boolean"}}},
        {"default": {"type": "float"}, "examples": [{"type": "float"}]},
        {"$ref": "#/$defs/a", "minimum": 1, "$defs": {"a": True}},
    ],
)
def test_a_modern_schema_and_its_data_stay_the_same_object(schema: dict[str, Any]) -> None:
    assert modern(schema) is schema


def test_a_tool_in_metas_form_is_declared_in_the_modern_one() -> None:
    familiar = {"type": "function", "function": {"name": "f", "parameters": META_EXAMPLE}}

    @tool(name="g", parameters=META_EXAMPLE)
    def given(**arguments: object) -> str:
        return str(arguments)

    for spec in (*specs_of([familiar, given]), ToolSpec("h", "", META_EXAMPLE)):
        assert spec.parameters == META_MODERN
    assert OutputSpec(META_EXAMPLE).schema == META_MODERN
    assert given.validated({"city": "Paris", "share": "0.5"}) == {"city": "Paris", "share": 0.5}


def test_arguments_are_checked_by_what_an_older_draft_says() -> None:
    schema = JsonSchema({"properties": {"a": {"items": [{"type": "int"}], "additionalItems": False}}})
    assert fit(schema, {"a": ["1"]}) == ({"a": [1]}, [])
    assert fit(schema, {"a": [1, 2]})[1] == ["a[1]: is not allowed"]
    assert fit(JsonSchema({"minimum": 3, "exclusiveMinimum": True}), 3)[1]


def test_a_reference_into_a_list_of_items_still_leads_there() -> None:
    schema = JsonSchema({"items": [{"type": "int"}], "additionalItems": {"$ref": "#/items/0"}})
    assert fit(schema, [1, "x"])[1]
    assert not fit(schema, [1, 2])[1]


def test_a_schema_too_deep_to_rewrite_is_refused_by_its_check() -> None:
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(10_000):
        deep = {"type": "object", "properties": {"x": deep}}
    spec = ToolSpec("f", "", deep)
    with pytest.raises(InvalidRequest, match="levels deep"):
        specs_of([spec])


@pytest.mark.parametrize(
    ("schema", "value", "fits"),
    [
        ({"anyOf": [{"minimum": 3}], "oneOf": [{"multipleOf": 2}]}, 5, False),
        ({"anyOf": [{"minimum": 3}], "oneOf": [{"multipleOf": 2}]}, 2, False),
        ({"anyOf": [{"minimum": 3}], "oneOf": [{"multipleOf": 2}]}, 4, True),
        ({"maxItems": 2.0}, [1, 2, 3], False),
        ({"minItems": 2.0}, [1, 2], True),
        ({"uniqueItems": True}, [1, 1.0], False),
        ({"uniqueItems": True}, [1, True, "1", [1], [True]], True),
        ({"uniqueItems": True}, [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], False),
        ({"multipleOf": 0.01}, 19.99, True),
        ({"multipleOf": 0.01}, 1e20, True),
        ({"multipleOf": 3}, 9007199254740993, True),
        ({"multipleOf": 0.5}, 123456789012345.25, False),
        ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}, False),
        ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"c": 1}, True),
        ({"format": "date"}, "no date", True),  # an annotation, as draft 2020-12 has it
    ],
)
def test_what_is_checked_is_checked_whole(schema: Any, value: Any, fits: bool) -> None:
    assert (fit(JsonSchema(schema), value, mending=False)[1] == []) is fits


def test_sizes_are_whole_numbers() -> None:
    with pytest.raises(InvalidRequest, match="no whole number"):
        JsonSchema({"maxItems": 2.5})
