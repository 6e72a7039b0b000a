"""What a grammar allows beyond its schema is of the documented kinds only, and the final check catches it."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from llama4_local.decoding.grammar import Grammars
from llama4sdk import InvalidRequest, OutputSpec
from llama4sdk.output import JsonSchema
from llama4sdk.output.fitting import fit
from llama4sdk.prompting import Tokenizer
from local.grammar_writing import MANY, accepts, asked, written

# `docs/typed-answers.md` lists them; formats besides, other than those that grammars keep.
DOCUMENTED = ("not", "if", "uniqueItems", "contains", "dependentRequired", "oneOf")
FORMATS = ("email", "uri", "hostname", "regex", "json-pointer")


def leaf(rng: random.Random) -> dict[str, Any]:
    low = rng.randint(-20, 20)
    return rng.choice([
        {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 40), "multipleOf": rng.choice([1, 2, 3.0])},
        {"type": "number", "exclusiveMinimum": low, "maximum": low + 5.5},
        {"type": ["integer", "string"], "minimum": 3, "maxLength": 4},
        {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-c]+$"},
        {"type": "string", "format": "date", "minLength": 10},
        {"type": "string", "format": rng.choice(FORMATS)},
        {"enum": [1, "a", None, [1, 2], {"a": 1}], "type": rng.choice(["integer", "array", ["object", "null"]])},
        {"const": {"a": [1, "x"]}},
        {"type": "boolean", "enum": [True]},
        {"minimum": low},
        {"maxLength": 3},
        {"maxItems": 1},
        {"required": ["a"]},
    ])  # fmt: skip


def schema_of(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of any keywords, those that a grammar cannot express among them."""
    if depth > 1:
        return leaf(rng)
    inner = lambda: schema_of(rng, depth + 1)  # noqa: E731
    makers = (
        lambda: leaf(rng),
        lambda: _object(rng, depth),
        lambda: _object(rng, depth),
        lambda: {"type": "array", "items": inner(), "minItems": rng.randint(0, 1), "maxItems": rng.randint(1, 3)},
        lambda: {"type": "array", "prefixItems": [leaf(rng), leaf(rng)], "items": rng.choice([False, leaf(rng)])},
        lambda: {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3, "uniqueItems": True},
        lambda: {"type": "array", "items": {"type": "integer"}, "maxItems": 3, "contains": {"const": 1}},
        lambda: {"anyOf": [inner(), inner()]},
        lambda: {"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": -5}]},
        lambda: {"oneOf": [{"type": "integer"}, {"minimum": 3, "type": "integer"}]},
        lambda: {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 9}]},
        lambda: {
            "allOf": [{"type": "object", "properties": {"a": leaf(rng)}, "maxProperties": 1}, {"required": ["a"]}]
        },
        lambda: {"type": "integer", "not": {"const": 1}},
        lambda: {"if": {"type": "integer"}, "then": {"minimum": 5}, "else": {"type": "string"}},
        lambda: {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "maximum": 5}}} if depth == 0 else leaf(rng),
    )
    return rng.choice(makers)()


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(["a", "b", "c d", "é"], rng.randint(0, 3))
    schema: dict[str, Any] = {"type": "object", "properties": {name: schema_of(rng, depth + 1) for name in names}}
    more: dict[str, Any] = {
        "required": [name for name in names if rng.random() < 0.5],
        "additionalProperties": rng.choice([False, True, {"type": "integer"}]),
        "minProperties": rng.randint(0, 2),
        "maxProperties": rng.randint(2, 4),
        "propertyNames": rng.choice([{"pattern": "^[a-z]"}, {"maxLength": 3}, {"enum": ["a", "b"]}]),
        "patternProperties": {"^[a-b]$": {"type": ["integer", "string"]}},
        "dependentRequired": {"a": ["b"]},
    }
    return schema | {key: more[key] for key in more if rng.random() < 0.3}


def keywords(schema: object) -> set[str]:
    """Return the names of all fields in a schema, and those of its formats."""
    if isinstance(schema, dict):
        fields: dict[str, Any] = schema
        return set(fields) | {str(fields.get("format"))} | {key for part in fields.values() for key in keywords(part)}
    return {key for part in schema for key in keywords(part)} if isinstance(schema, list) else set()


def is_documented(schema: dict[str, Any], text: str) -> bool:
    used = keywords(schema)
    if used & {*DOCUMENTED, *FORMATS, "patternProperties"}:
        return True
    if "prefixItems" in used and used & {"propertyNames", "minProperties", "maxProperties"}:
        return True
    return _has_twin_names(text)


def _has_twin_names(text: str) -> bool:
    twins: list[bool] = []
    json.loads(text, object_pairs_hook=lambda pairs: twins.append(len(dict(pairs)) < len(pairs)))
    return any(twins)


def test_whatever_is_allowed_beyond_a_schema_is_documented(grammars: Grammars, tokenizer: Tokenizer) -> None:
    rng, counts = random.Random(11), Counter[str]()
    for number in range(MANY * 8):
        schema = schema_of(rng)
        try:
            text = written(grammars, tokenizer, asked(output=OutputSpec(schema)), number)
        except InvalidRequest:
            counts["refused"] += 1
            continue
        if text is None:
            counts["not ended"] += 1
            continue
        fits = fit(JsonSchema(schema), json.loads(text))[1] == []
        counts["valid" if fits else "beyond"] += 1
        assert fits or is_documented(schema, text), (schema, text)
    assert counts["valid"] > MANY * 4, counts


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "not": {"const": 1}},
        {"type": "array", "items": {"enum": [1]}, "minItems": 2, "uniqueItems": True},
        {"oneOf": [{"type": "integer"}, {"type": "integer", "minimum": 3}]},
        {"type": "string", "format": "email"},
    ],
)
def test_a_documented_kind_is_refused_or_left_to_the_final_check(grammars: Grammars, schema: dict[str, Any]) -> None:
    try:
        assert grammars.mask_for(asked(output=OutputSpec(schema))) is not None
    except InvalidRequest as refusal:
        assert str(refusal)


@pytest.mark.parametrize(
    ("schema", "text", "may"),
    [
        ({"items": {"type": "integer"}, "minItems": 2}, "[1]", False),
        ({"items": {"type": "integer"}, "minItems": 2}, "[1, 2, 3]", True),
        ({"items": {"type": "integer"}, "maxItems": 2.0}, "[1, 2, 3]", False),
        ({"items": {"type": "integer"}, "minItems": 0, "maxItems": 0}, "[]", True),
        ({"items": False}, "[]", True),
        ({"maxItems": 1}, '["a", 1]', False),
        ({"items": {"type": "object", "propertyNames": {"pattern": "^[a-c]$"}}, "maxItems": 1}, '[{"z": 1}]', False),
        ({"items": {"type": "object", "propertyNames": {"pattern": "^[a-c]$"}}, "maxItems": 1}, '[{"a": 1}]', True),
        ({"items": {"type": "object", "minProperties": 1}, "minItems": 1}, "[{}]", False),
    ],
)
def test_limits_on_an_arrays_length_keep_what_its_items_ask_for(
    grammars: Grammars, tokenizer: Tokenizer, schema: dict[str, Any], text: str, may: bool
) -> None:
    schema = {"type": "array", **schema}
    assert accepts(grammars, tokenizer, asked(output=OutputSpec(schema)), text) is may
    assert (fit(JsonSchema(schema), json.loads(text))[1] == []) is may


@pytest.mark.parametrize("schema", [{"minItems": 2, "maxItems": 1}, {"items": False, "minItems": 1}])
def test_an_array_that_cannot_be_written_is_refused(grammars: Grammars, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        grammars.mask_for(asked(output=OutputSpec({"type": "array", **schema})))
