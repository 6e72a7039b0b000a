"""The form of a typed answer: what the model is told of it, and how its text becomes the object."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from llama4sdk.errors import InvalidRequest
from llama4sdk.output.find import find_json, kinds_of
from llama4sdk.output.fitting import fit
from llama4sdk.output.json_schema import JsonSchema
from llama4sdk.output.numbers import NumbersAsNumbers
from llama4sdk.output.typed_dicts import portable
from llama4sdk.request import OutputSpec
from llama4sdk.surrogates import mended_value

_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAYBE_INFINITE = re.compile(r"NaN|Infinity|[eE]\+?\d{3}|\d{300}")
_IN_WORDS = re.compile(r"\"\s*[-+]?(?:nan|inf(?:inity)?|\d+e\d{3,}|\d{300,})\s*\"", re.IGNORECASE)  # numbers as strings


class MisfitError(Exception):
    """An answer that has not the form; the message says where. It never leaves the SDK."""


class AnswerForm:
    """The form of a typed answer, as `output=` gives it.

    Args:
        spec: What the model is told.
        read: From one JSON text to the object; raises `MisfitError`.
    """

    def __init__(self, spec: OutputSpec, read: Callable[[str], object]) -> None:
        self.spec = spec
        self._read = read
        self.kinds = kinds_of(JsonSchema(spec.schema))

    def parse(self, text: str) -> object:
        """Return the object in an answer, whatever words or fences stand around it.

        Raises:
            MisfitError: When there is none that fits; it says what is wrong with the first.
        """
        first: MisfitError | None = None
        for candidate in find_json(text, self.kinds):
            try:
                return self._read(candidate)
            except MisfitError as error:
                first = first or error
        raise first or MisfitError("it holds no complete JSON value of the right kind")


def answer_form(output: object) -> AnswerForm | None:
    """Return the form that `output=` stands for; None for None.

    Args:
        output: A pydantic model, a dataclass, a TypedDict, a Literal, any other type that JSON can hold,
            lists and unions of these; a compiled regular expression, for a string that matches it whole; or a
            JSON schema, as a dict or an `OutputSpec`.

    Raises:
        InvalidRequest: For anything else, or a schema that cannot be used.
    """
    if output is None:
        return None
    if isinstance(output, OutputSpec):
        return _of_schema(output)
    if isinstance(output, Mapping):
        schema = cast("Mapping[str, Any]", output)
        return _of_schema(OutputSpec(schema, _named(schema.get("title"))))
    if isinstance(output, re.Pattern):
        return _of_pattern(cast("re.Pattern[Any]", output))
    if isinstance(output, str | bytes | int | float | list | tuple) or inspect.isroutine(output):
        raise InvalidRequest(f"output is a type or a JSON schema, not {type(output).__name__}.")
    return _of_type(output)


def _of_schema(spec: OutputSpec) -> AnswerForm:
    schema = JsonSchema(spec.schema)

    def read(text: str) -> object:
        fitted, problems = fit(schema, _value_of(text))
        if problems:
            raise MisfitError("; ".join(problems))
        return fitted

    return AnswerForm(spec, read)


def _of_pattern(pattern: re.Pattern[Any]) -> AnswerForm:
    if not isinstance(pattern.pattern, str) or pattern.flags != re.compile("").flags:
        raise InvalidRequest("A regular expression for output= is one of text, without flags.")
    return _of_schema(OutputSpec({"type": "string", "pattern": f"^(?:{pattern.pattern})$"}, "text"))


def _of_type(output: object) -> AnswerForm:
    try:
        adapter: TypeAdapter[object] = TypeAdapter(portable(output))
        schema = adapter.json_schema(schema_generator=NumbersAsNumbers)
    except Exception as error:  # noqa: BLE001 - besides pydantic's errors those of a type's own hooks, which may be any
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InvalidRequest(f"output is no type that JSON can hold ({reason}).") from None

    def read(text: str) -> object:
        try:
            value = adapter.validate_json(_plain(text))
        except ValidationError as error:
            raise MisfitError(_problems(error)) from None
        if _IN_WORDS.search(text) and not _is_finite(adapter.dump_python(value, warnings=False)):
            raise MisfitError("it holds a number that is not finite")
        return value

    return AnswerForm(OutputSpec(schema, _named(getattr(output, "__name__", None))), read)


def _problems(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the value'}: {each['msg']}" for each in details[:10])


def _named(name: object) -> str:
    return _NAME.sub("_", name)[:64].strip("_") or "answer" if isinstance(name, str) else "answer"


def _value_of(text: str) -> Any:
    """Return the value of a JSON text: finite numbers, and U+FFFD in place of surrogates without their pair.

    Raises:
        MisfitError: It is no JSON, or has a number that is not finite.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        raise MisfitError("it is no JSON of finite numbers") from None
    return mended_value(value) if _ESCAPED_SURROGATE.search(text) else value


def _plain(text: str) -> str:
    """Return a JSON text that every reader takes alike; see `_value_of`."""
    if not (_ESCAPED_SURROGATE.search(text) or _MAYBE_INFINITE.search(text)):
        return text
    return json.dumps(_value_of(text), ensure_ascii=False)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(digits)
    return number


def _is_finite(value: object) -> bool:
    """Return whether no number in plain data is infinite or NaN, as strings become where a number is asked for."""
    match value:
        case float() | Decimal():
            return math.isfinite(value)
        case dict():
            return all(map(_is_finite, cast("dict[object, object]", value).values()))
        case list() | tuple() | set() | frozenset():
            return all(map(_is_finite, cast("list[object]", value)))
        case _:
            return True


def _refuse(constant: str) -> float:
    raise ValueError(constant)
