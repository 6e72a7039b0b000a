"""What may be asked for, where it is found in an answer, and what does not fit."""

from __future__ import annotations

import dataclasses
import decimal
import re
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from pydantic import BaseModel, Field

from llama4sdk import Deadlines, InvalidRequest, OutputSpec
from llama4sdk.output import AnswerForm, answer_form
from llama4sdk.output.form import MisfitError


class City(BaseModel):
    name: str
    people: Annotated[int, Field(ge=0)]


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Film(TypedDict):
    title: str
    year: NotRequired[int]


class Shelf(TypedDict):
    films: list[Film]


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "title": "A number!"}


def form(output: object) -> AnswerForm:
    made = answer_form(output)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("output", "text", "value"),
    [
        (City, '{"name": "Paris", "people": 2}', City(name="Paris", people=2)),
        (Point, '{"x": 1}', Point(1.0)),
        (Film, '{"title": "M"}', {"title": "M"}),
        (Shelf, '{"films": [{"title": "M", "year": 1931}]}', {"films": [{"title": "M", "year": 1931}]}),
        (list[City], '[{"name": "Rome", "people": 1}]', [City(name="Rome", people=1)]),
        (list[Film], '[{"title": "M"}]', [{"title": "M"}]),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (City | None, "null", None),
        (Literal["yes", "no"], '"yes"', "yes"),
        (Literal["yes", "no"], "yes", "yes"),
        (Literal[1, 2], "2", 2),
        (bool, "true", True),
        (int, " 42\n", 42),
        (float, "1.5", 1.5),
        (decimal.Decimal, "0.1", decimal.Decimal("0.1")),
        (str, "plain words", "plain words"),
        (str, '"quoted"', "quoted"),
        (SCHEMA, '{"n": 3}', {"n": 3}),
        (SCHEMA, '{"n": "3"}', {"n": 3}),
        (OutputSpec(SCHEMA), '{"n": 3.0}', {"n": 3}),
        ({"enum": ["a", "b"]}, "b", "b"),
        (re.compile(r"\d{3}-\d{2}|none"), "123-45", "123-45"),
        (re.compile(r"\d{3}-\d{2}|none"), '"none"', "none"),
        ({"type": "array", "items": {"type": "string"}}, '["x"]', ["x"]),
        ({}, '{"any": 1}', {"any": 1}),
    ],
)
def test_every_kind_of_form_makes_its_object(output: object, text: str, value: object) -> None:
    assert form(output).parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 3}',
        '\n {"n": 3} \n',
        '```json\n{"n": 3}\n```',
        '```\n{"n": 3}\n```',
        'Here you are:\n```json\n{"n": 3}\n```\nAnything else?',
        'Sure! {"n": 3} is the answer.',
        'As {"x": 1} shows, [1] it is {"n": 3}.',
        'Not { this, but {"n": 3}',
        '{"n": 3}{"n": 4}',
        '{"n": 3}\n\nThe set {1, 2} is "quoted".',
    ],
)
def test_words_and_fences_around_the_answer_are_tolerated(text: str) -> None:
    assert form(SCHEMA).parse(text) == {"n": 3}


@pytest.mark.parametrize(
    ("output", "text", "problem"),
    [
        (City, "", "no complete JSON value"),
        (City, "Sorry, I cannot.", "no complete JSON value"),
        (City, '{"name": "Paris", "people": ', "no complete JSON value"),
        (City, '{"name": "Paris"}', "people: Field required"),
        (City, '{"name": "Paris", "people": -1}', "people: Input should be greater"),
        (City, '[{"name": "Paris"}]', "people: Field required"),
        (list[int], '["x"]', "0: Input should be a valid integer"),
        (Literal["yes", "no"], "perhaps", "Input should be 'yes' or 'no'"),
        (SCHEMA, '{"n": "three"}', "n: is string, not integer"),
        (SCHEMA, '{"n": NaN}', "no JSON"),
        (SCHEMA, "{}", "n: is missing"),
        (int, "many", "valid integer"),
        (re.compile(r"\d|\d\d"), "no. 12", "does not match"),
        (SCHEMA, '{"n": ' * 100_000, "no complete JSON value"),
        (SCHEMA, '{"n": ' + "9" * 5000 + "}", "no complete JSON value"),
    ],
)
def test_an_answer_that_does_not_fit_says_where(output: object, text: str, problem: str) -> None:
    with pytest.raises(MisfitError) as caught:
        form(output).parse(text)
    assert problem in str(caught.value)


class Failing:
    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> None:
        raise RuntimeError


@pytest.mark.parametrize(
    "output",
    [
        re.compile(b"x"),
        re.compile("x", re.IGNORECASE),
        "City",
        3,
        b"x",
        [int],
        (int,),
        len,
        object(),
        type(len),
        lambda: 1,
        Deadlines(),
        Failing,
    ],
)
def test_what_is_no_form_is_refused(output: Any) -> None:
    with pytest.raises(InvalidRequest, match="output"):
        answer_form(output)


def test_no_form_is_no_form() -> None:
    assert answer_form(None) is None


def test_the_model_is_shown_schema_and_name() -> None:
    assert form(City).spec.name == "City"
    assert form(City).spec.schema["required"] == ["name", "people"]
    assert form(SCHEMA).spec == OutputSpec(SCHEMA, "A_number")
    assert form(list[City]).spec.name == "list"


def test_a_typed_dict_that_holds_itself_says_what_to_do() -> None:
    import sys

    if sys.version_info >= (3, 12):
        pytest.skip("pydantic takes it there")
    with pytest.raises(InvalidRequest, match="typing_extensions"):
        answer_form(Tree)


class Tree(TypedDict):
    trees: list[Tree]
