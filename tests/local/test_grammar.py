"""Constrained decoding: whatever the scores say, the answer keeps to its form."""

from __future__ import annotations

import datetime
import json
import random
import re
import threading
from pathlib import Path
from typing import Any, Literal

import pytest

from llama4_local.decoding.grammar import Grammars, grammar_of
from llama4_local.decoding.string_formats import FORMATS
from llama4sdk import InvalidRequest, OutputSpec, Request, Sampling, Stream, ToolSpec
from llama4sdk.output import JsonSchema, answer_form
from llama4sdk.output.fitting import fit
from llama4sdk.prompting import Tokenizer
from llama4sdk.tools import Tool, read_calls, specs_of
from local.grammar_writing import MANY, ROOM, accepts, asked, written
from local.random_forms import random_schema, random_tools
from local.small_backends import EOT, saved_chat, serving
from local.small_checkpoints import VOCABULARY


def test_random_schemas_give_valid_answers(grammars: Grammars, tokenizer: Tokenizer) -> None:
    rng, ended = random.Random(1), 0
    for seed in range(MANY):
        spec = OutputSpec(random_schema(rng))
        text = written(grammars, tokenizer, asked(output=spec), seed)
        if text is not None:
            ended += 1
            value = json.loads(text)
            assert fit(JsonSchema(spec.schema), value)[1] == [], (spec.schema, text)
            form = answer_form(spec)
            assert form is not None
            form.parse(text)
    print(f"{ended} of {MANY} schemas ended within {ROOM} tokens")
    assert ended > MANY * 0.8


@pytest.mark.parametrize("choice", ["required", "named"])
def test_random_tool_sets_give_valid_calls(grammars: Grammars, tokenizer: Tokenizer, choice: str) -> None:
    rng, ended = random.Random(2), 0
    for seed in range(MANY):
        tools = random_tools(rng)
        request = asked(tools=tools, tool_choice=tools[0].name if choice == "named" else "required")
        text = written(grammars, tokenizer, request, seed)
        if text is None:
            continue
        ended += 1
        read = read_calls(text, tools)
        assert read.text == "", (text, read.text)
        assert read.calls
        for call in read.calls:
            assert choice == "required" or call.name == tools[0].name
            schema = next(tool.parameters for tool in tools if tool.name == call.name)
            assert fit(JsonSchema(schema), call.arguments)[1] == [], (schema, text)
    print(f"{ended} of {MANY} tool sets ended within {ROOM} tokens")
    assert ended > MANY * 0.8


def test_with_free_choice_an_answer_is_words_or_calls(grammars: Grammars, tokenizer: Tokenizer) -> None:
    tools = (ToolSpec("f", "", {"type": "object", "properties": {"a": {"type": "integer"}}}),)
    texts = [written(grammars, tokenizer, asked(tools=tools), seed) for seed in range(25)]
    ended = [text for text in texts if text is not None]
    assert len(ended) > 5
    for text in ended:
        assert "<|" not in text
        if "[f(" in text:
            (*_, call) = read_calls(text, tools).calls
            assert fit(JsonSchema(tools[0].parameters), call.arguments)[1] == []


def test_with_tools_and_a_form_an_answer_is_either(grammars: Grammars, tokenizer: Tokenizer) -> None:
    tools = (ToolSpec("f"),)
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    for seed in range(30):
        text = written(grammars, tokenizer, asked(tools=tools, output=OutputSpec(schema)), seed)
        if text is not None:
            assert read_calls(text, tools).calls or fit(JsonSchema(schema), json.loads(text))[1] == []


def test_arguments_keep_pythons_notation(grammars: Grammars, tokenizer: Tokenizer) -> None:
    def f(on: bool, none: None, either: bool | None, deep: dict[str, list[bool]], kind: Literal["a", "b"]) -> None: ...

    request = asked(tools=specs_of([f]), tool_choice="f")
    texts = [written(grammars, tokenizer, request, seed) for seed in range(20)]
    assert any(text and "True" in text for text in texts)
    assert not any(text and ("true" in text or "null" in text) for text in texts)


def test_a_regular_expression_is_kept_to(grammars: Grammars, tokenizer: Tokenizer) -> None:
    form = answer_form(re.compile("[ab]{3}-(yes|no)"))
    assert form is not None
    for seed in range(10):
        text = written(grammars, tokenizer, asked(output=form.spec), seed)
        assert text is not None
        assert re.fullmatch("[ab]{3}-(yes|no)", str(form.parse(text)))


TWO = (
    ToolSpec("get", "", {"type": "object", "properties": {"a": {"type": "integer"}}}),
    ToolSpec("get-x.y"),
)


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("", True),
        ("Just words (really).", True),
        ("[get(a=1)]", True),
        ("[get(a=1), get-x.y()]", True),
        ("[1, 2] is a list", False),  # a bracket at the beginning is a call
        ("See [1] and [[2]](x), [get] or [getting(a=b)] [ge", True),
        ("See: [get(a=1)]", True),
        ("Well [1], then\n[get-x.y(), get(a=2)]", True),
        ("See: [get(a=x)]", False),
        ("See: [get(b=1)]", False),
        ("See: [get (a=x)]", False),
        ("See: [ get(a=x)]", False),
        ("See: [\n\tget-x.y (a=x)]", False),
        ("See: [[get(a=x)]", False),
        ("See: [get(a=1)] and more", False),
        ("See: [get-x(a=x)]", True),  # no tool of ours
        ("f(a=1) or x[0] or {[]}", True),
    ],
)
def test_words_may_lead_to_calls_and_calls_are_whole_even_then(
    grammars: Grammars, tokenizer: Tokenizer, text: str, may: bool
) -> None:
    assert accepts(grammars, tokenizer, asked(tools=TWO), text) is may
    if may and "(a=" in text and "getting" not in text and "get-x(" not in text and "f(" not in text:
        assert read_calls(text, TWO).calls


OPEN = {"type": "object", "properties": {"a": {"type": "integer"}, "é": {}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "text", "may"),
    [
        (OPEN, '{"a": 1}', True),
        (OPEN, '{"a": 1, "é": [1, "x", {"y": null}]}', True),
        (OPEN, '{"a": 1, "b": 2}', False),  # only what the schema names
        (OPEN, '{"a": 1, "a": 2}', False),
        (OPEN, r'{"a": 1, "\u0061": "x"}', False),  # the same field once more, in disguise
        (OPEN, "{}", False),
        ({"type": "number"}, "1e999", False),  # more than a double holds
        ({"type": "number"}, "-1.5e30", True),
        ({"description": "anything"}, "[1, true]", True),
        ({"title": "X", "default": None}, "3", True),
        ({"properties": {"a": True, "b": False}}, '{"a": 1}', True),
        ({"properties": {"a": True, "b": False}}, '{"b": 1}', False),
        ({"type": "array", "items": False}, "[]", True),
        ({"type": "array", "items": False}, "[1]", False),
        ({"type": "string", "enum": ["a", 1]}, "1", False),
        ({"type": "string", "enum": ["a", 1]}, '"a"', True),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}], "minimum": 3}, "1", False),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}], "minimum": 3}, "4", True),
        ({"$ref": "#/$defs/n", "maximum": 5, "$defs": {"n": {"type": "integer"}}}, "7", False),
        ({"$ref": "#/$defs/n", "maximum": 5, "$defs": {"n": {"type": "integer"}}}, "3", True),
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, '{"b": 1, "a": 2}', True),
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, '{"c": 1}', False),
        ({"type": "object", "propertyNames": {"pattern": "^x", "maxLength": 3}}, '{"xy": 1}', True),
        ({"type": "object", "propertyNames": {"pattern": "^x", "maxLength": 3}}, '{"yx": 1}', False),
        ({"type": "object", "propertyNames": {"format": "date"}, "additionalProperties": False}, "{}", True),
        ({"type": "object", "propertyNames": False}, "{}", True),
        ({"type": "object", "propertyNames": False}, '{"a": 1}', False),
        ({"type": "object", "propertyNames": {"type": "integer"}}, '{"1": 1}', False),
        ({"type": "object", "propertyNames": {"anyOf": [{"const": "a"}, {"pattern": "^b"}]}}, '{"bc": 1}', True),
        ({"type": "object", "propertyNames": {"anyOf": [{"const": "a"}, {"pattern": "^b"}]}}, "{null: 1}", False),
        ({"type": "object", "propertyNames": {"not": {"const": "a"}}}, "{1: 1}", False),
        (
            {"type": "object", "propertyNames": {"$ref": "#/$defs/k"}, "$defs": {"k": {"pattern": "^q"}}},
            "{1: 1}",
            False,
        ),
        (
            {"type": "object", "propertyNames": {"$ref": "#/$defs/k"}, "$defs": {"k": {"pattern": "^q"}}},
            '{"q": 1}',
            True,
        ),
        ({"type": "string", "format": "date"}, '"2024-02-29"', True),
        ({"type": "string", "format": "date"}, '"2025-02-29"', False),
        ({"type": "string", "format": "date"}, '"2000-02-29"', True),
        ({"type": "string", "format": "date"}, '"1900-02-29"', False),
        ({"type": "string", "format": "date"}, '"2025-04-31"', False),
        ({"type": "string", "format": "date-time"}, '"2025-12-31T23:59:59Z"', True),
        ({"type": "string", "format": "date-time"}, '"2025-12-31T23:59:60Z"', False),
        ({"type": "string", "format": "time"}, '"09:30:00.5+02:00"', True),
        ({"type": "string", "format": "duration"}, '"P1DT2H30M"', True),
        ({"type": "string", "format": "duration"}, '"P"', False),
    ],
)
def test_what_may_be_written_always_fits(
    grammars: Grammars, tokenizer: Tokenizer, schema: dict[str, Any], text: str, may: bool
) -> None:
    assert accepts(grammars, tokenizer, asked(output=OutputSpec(schema)), text) is may
    if may:
        assert fit(JsonSchema(schema), json.loads(text))[1] == []


def test_days_are_those_of_the_calendar() -> None:
    day = re.compile(FORMATS["date"])
    for year in (1000, 1600, 1700, 1899, 1900, 2000, 2023, 2024, 2100, 2400, 9999):
        for month in range(13 + 1):
            for number in range(33):
                text = f"{year:04}-{month:02}-{number:02}"
                try:
                    datetime.date(year, month, number)
                except ValueError:
                    assert not day.fullmatch(text), text
                else:
                    assert day.fullmatch(text), text


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}])
def test_fault_49_a_schema_that_nothing_fits_is_refused(grammars: Grammars, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be kept"):
        grammars.mask_for(asked(output=OutputSpec(schema)))


def test_fault_49_a_type_that_holds_itself_can_be_written(grammars: Grammars, tokenizer: Tokenizer) -> None:
    node = {
        "type": "object",
        "properties": {"next": {"$ref": "#/$defs/node"}, "n": {"type": "integer"}},
        "required": ["n"],
    }
    tree = {
        "type": "object",
        "properties": {"node": {"$ref": "#/$defs/node"}},
        "required": ["node"],
        "$defs": {"node": node},
    }
    tool = ToolSpec("f", "", tree)
    texts = [written(grammars, tokenizer, asked(tools=(tool,), tool_choice="f"), seed) for seed in range(30)]
    ended = [text for text in texts if text]
    assert any('"next"' in text for text in ended)
    for text in ended:
        (*_, call) = read_calls(text, [tool]).calls
        assert fit(JsonSchema(tree), call.arguments)[1] == []


def test_a_grammar_is_compiled_once(grammars: Grammars) -> None:
    request = asked(output=OutputSpec({"enum": [f"word {n}" for n in range(1000)]}))
    grammars.mask_for(request)
    compiled = grammars._compiled  # pyright: ignore[reportPrivateUsage]
    kept = len(compiled)
    masks = [grammars.mask_for(request) for _ in range(3)]
    assert len(compiled) == kept
    assert len({id(mask) for mask in masks}) == 3


def test_several_threads_may_compile_at_once(tokenizer: Tokenizer) -> None:
    shared = Grammars(tokenizer, VOCABULARY, [EOT])
    made: list[object] = []
    requests = [asked(output=OutputSpec({"const": n % 4})) for n in range(12)]

    def compile_one(request: Request) -> None:
        made.append(shared.mask_for(request))

    threads = [threading.Thread(target=compile_one, args=(each,)) for each in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 12


def test_a_request_without_a_form_has_no_grammar() -> None:
    assert grammar_of(asked()) is None
    assert grammar_of(asked(tools=(ToolSpec("f"),), tool_choice="none")) is None


def test_what_cannot_be_kept_together_is_refused(grammars: Grammars, tokenizer: Tokenizer) -> None:
    spec = OutputSpec({"type": "integer"})
    with pytest.raises(InvalidRequest, match="min_tokens"):
        grammars.mask_for(asked(output=spec, sampling=Sampling(min_tokens=3)))
    with pytest.raises(InvalidRequest, match="names no token"):
        Grammars(tokenizer, VOCABULARY, []).mask_for(asked(output=spec))
    odd = ToolSpec("f", "", {"type": "object", "properties": {"two words": {}}, "required": ["two words"]})
    with pytest.raises(InvalidRequest, match="two words"):
        grammars.mask_for(asked(tools=(odd,), tool_choice="f"))


async def test_a_random_checkpoint_keeps_to_the_form(tmp_path: Path) -> None:
    def paint(colour: Literal["red", "blue"], coats: Literal[1, 2] = 1) -> None: ...

    form = answer_form(Literal["red", "blue"])
    assert form is not None
    tools = specs_of([paint])
    async with serving(saved_chat(tmp_path), max_sequences=8) as backend:
        assert backend.capabilities.structured_output
        for seed in range(3):
            hot = Sampling(temperature=1.5, max_tokens=60, seed=seed)
            async with Stream(backend, asked(output=form.spec, sampling=hot), form=form) as stream:
                reply = await stream.result()
            assert reply.output in ("red", "blue")
            assert reply.finish_reason == "stop"
            async with Stream(backend, asked(tools=tools, tool_choice="paint", sampling=hot)) as stream:
                reply = await stream.result()
            assert reply.tool_calls or reply.finish_reason == "length"
            for call in reply.tool_calls:
                Tool(paint).validated(call.arguments)
