"""Typed functions become tools: their schema, their words, their arguments."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from pydantic import BaseModel, Field

from llama4sdk import InvalidRequest, ToolSpec
from llama4sdk.tools import Tool, declared, read_calls, specs_of, tool
from llama4sdk.tools.schema import BadArgumentsError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Node(BaseModel):
    title: str
    children: list[Node] = []


class Inner(TypedDict, total=False):
    depth: int


class Size(TypedDict):
    width: int
    inner: NotRequired[list[Inner]]


@tool
def paint(
    what: Annotated[str, "What to paint."],
    colour: Colour = Colour.RED,
    at: Point | None = None,
    sizes: list[dict[str, int]] = [],  # noqa: B006
    mood: Literal["gay", "grave"] = "gay",
    tree: Node | None = None,
    when: datetime.date | None = None,
    share: Annotated[float, Field(ge=0, le=1)] = 1.0,
    size: Size | None = None,
) -> str:
    """Paint something.

    With a brush.

    Args:
        colour: Its colour.
        mood: How it shall
            feel.

    Returns:
        What was painted.
    """
    return f"{what} {colour.value} {at} {sizes} {mood} {tree} {when} {share} {size}"


def google(city: str, days: int = 1) -> None:
    """Get the weather.

    Args:
        city: The city.
        days: How many days.
    """


def numpy(city: str, days: int = 1) -> None:
    """Get the weather.

    Parameters
    ----------
    city : str
        The city.
    days : int
        How many days.
    """


def rest(city: str, days: int = 1) -> None:
    """Get the weather.

    :param city: The city.
    :param days: How many days.
    """


@pytest.mark.parametrize("function", [google, numpy, rest])
def test_every_style_of_docstring_gives_the_same_declaration(function: Callable[..., None]) -> None:
    (spec,) = specs_of([function])
    assert spec.description == "Get the weather."
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The city."},
            "days": {"type": "integer", "default": 1, "description": "How many days."},
        },
        "required": ["city"],
    }


def test_every_kind_of_type_has_a_schema() -> None:
    properties = paint.parameters["properties"]
    assert paint.description == "Paint something.\n\nWith a brush."
    assert paint.parameters["required"] == ["what"]
    assert properties["what"] == {"type": "string", "description": "What to paint."}
    assert properties["colour"]["description"] == "Its colour."
    assert properties["mood"] == {
        "type": "string", "default": "gay", "enum": ["gay", "grave"], "description": "How it shall feel.",
    }  # fmt: skip
    assert properties["share"] == {"type": "number", "default": 1.0, "maximum": 1, "minimum": 0}
    assert properties["at"]["anyOf"] == [{"$ref": "#/$defs/Point"}, {"type": "null"}]
    assert paint.parameters["$defs"]["Colour"] == {"type": "string", "enum": ["red", "blue"]}
    assert "title" in paint.parameters["$defs"]["Node"]["properties"]


def test_fault_49_a_type_that_holds_itself_is_supported() -> None:
    read = paint.validated({"what": "x", "tree": {"title": "a", "children": [{"title": "b"}]}})
    assert read["tree"] == Node(title="a", children=[Node(title="b")])


def test_arguments_become_what_the_function_takes() -> None:
    read = paint.validated({
        "what": "door", "colour": "blue", "at": {"x": "1.5"}, "sizes": [{"a": "1"}], "when": "2026-11-23",
        "size": {"width": 3, "inner": [{}]},
    })  # fmt: skip
    assert read["colour"] is Colour.BLUE
    assert read["at"] == Point(1.5)
    assert read["sizes"] == [{"a": 1}]
    assert read["size"] == {"width": 3, "inner": [{}]}
    assert read["when"] == datetime.date(2026, 11, 23)
    assert "door blue" in paint(**read)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "what: is missing"),
        ({"what": 3}, "what: Input should be a valid string"),
        ({"what": "x", "share": 2}, "share: Input should be less than or equal to 1"),
        ({"what": "x", "mood": "blue"}, "mood: Input should be 'gay' or 'grave'"),
        ({"what": "x", "brush": 1}, "brush: is not known"),
        ({"what": "x", "at": {"y": 1}}, "at.x: "),
    ],
)
def test_fault_51_arguments_that_do_not_fit_say_where(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadArgumentsError) as caught:
        paint.validated(arguments)
    assert problem in str(caught.value)


def test_a_tool_can_be_called_like_its_function() -> None:
    @tool(name="twice", description="Double it.", timeout=3, max_result=10)
    def double(number: int) -> int:
        return 2 * number

    assert double(4) == 8
    assert (double.name, double.description, double.timeout, double.max_result) == ("twice", "Double it.", 3, 10)


def test_a_method_becomes_a_tool_of_its_object() -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        @tool(name="count_up")
        def up(self, by: int) -> int:
            """Count up."""
            self.count += by
            return self.count

        def down(self, by: int) -> int:
            self.count -= by
            return self.count

    counter = Counter()
    assert [each.name for each in declared([counter.up, counter.down])] == ["count_up", "down"]
    assert counter.up(3) == 3
    with pytest.raises(InvalidRequest, match="take it from an object"):
        declared([Counter.up])


def test_a_schema_may_stand_in_for_types() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0}}, "required": ["x"]}

    @tool(parameters=schema)
    def square(**numbers: Any) -> int:
        return numbers["x"] ** 2

    assert square.parameters == schema
    assert square.validated({"x": "3"}) == {"x": 3}
    with pytest.raises(BadArgumentsError, match="x: is below 0"):
        square.validated({"x": -1})


@pytest.mark.parametrize(
    "value",
    [
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
        {"name": "now", "description": None, "parameters": None},
        {"name": "now", "input_schema": {"type": "object"}},
        ToolSpec("now"),
    ],
)
def test_the_familiar_forms_are_taken_too(value: Any) -> None:
    assert specs_of([value])[0].name == "now"
    assert [call.name for call in read_calls("[now()]", [value]).calls] == ["now"]


def no_type(x):  # type: ignore[no-untyped-def]
    return x


def a_callback(x: Callable[[int], int]) -> None: ...


class Opaque: ...


def an_object(x: Opaque) -> None: ...


def unknown(x: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821


def stars(*x: int) -> None: ...


def by_place(x: int, /) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (no_type, "needs a type"),
        (a_callback, "no JSON value can be"),
        (an_object, "no JSON value can be"),
        (unknown, "cannot be found out"),
        (stars, "no fixed name"),
        (by_place, "no fixed name"),
        (len, "no fixed name"),
        (lambda: 1, "name"),
        (functools.partial(google, days=2), "name"),
        (3, "not int"),
        ("now", "not str"),
        ({"function": {}}, "looks like"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_when_it_is_declared(function: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        declared([function])


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "1st", "<|eot|>", "é"])
def test_fault_50_bad_names_are_refused_when_they_are_declared(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        Tool(google, name=name)
    with pytest.raises(InvalidRequest, match="name"):
        declared([{"name": name, "parameters": {"type": "object"}}])


@pytest.mark.parametrize("make", [lambda: ToolSpec(3), lambda: ToolSpec("x", "", []), lambda: Tool(google, name=3)])  # type: ignore[arg-type]
def test_fault_50_what_is_no_name_or_no_schema_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest):
        make()


def test_fault_50_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="declared twice: google"):
        declared([google, tool(name="google")(numpy)])


@pytest.mark.parametrize(
    "limits",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": "5"},
        {"timeout": float("nan")},
        {"timeout": True},
        {"max_result": 0},
        {"max_result": 1.5},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        Tool(google, **limits)


def test_a_partial_takes_a_name_and_keeps_its_words() -> None:
    made = Tool(functools.partial(google, days=2), name="two_days")
    assert made.parameters["properties"]["city"] == {"type": "string"}
    assert made.parameters["required"] == ["city"]


def test_tools_are_a_list() -> None:
    with pytest.raises(InvalidRequest, match="list of tools"):
        declared(ToolSpec("x"))  # type: ignore[arg-type]
