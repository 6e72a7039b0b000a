"""A typed function's parameters: their JSON schema, and a validator for arguments."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, cast, get_args, get_origin

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs

from llama4sdk.errors import InvalidRequest
from llama4sdk.output.numbers import NumbersAsNumbers
from llama4sdk.output.typed_dicts import portable

Arguments = Mapping[str, Any]


class BadArgumentsError(Exception):
    """Arguments that do not fit; the message is for the model. It never leaves this package."""


class FunctionSchema:
    """The parameters of one function.

    Args:
        function: Any function whose parameters have types.
        descriptions: What its parameters mean, where their annotations do not say.

    Raises:
        InvalidRequest: For parameters without a type, or of a type that no JSON value can be.
    """

    def __init__(self, function: Callable[..., object], descriptions: Mapping[str, str]) -> None:
        what = getattr(function, "__name__", type(function).__name__)
        parameters = _parameters(function, what)
        try:
            self._adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(
                cast("Any", _collector(parameters)),
                config=ConfigDict(arbitrary_types_allowed=False, hide_input_in_errors=True),
            )
            schema = self._adapter.json_schema(schema_generator=_Schema)
        except _UNSUITABLE as error:
            raise InvalidRequest(
                f"The tool {what} has a parameter whose type no JSON value can be ({str(error).splitlines()[0][:200]})."
            ) from None
        self.parameters = _tidied(schema, descriptions)

    def validated(self, arguments: Arguments) -> dict[str, Any]:
        """Return the arguments as the function takes them, defaults left to it.

        Raises:
            BadArgumentsError: When they do not fit.
        """
        try:
            return self._adapter.validate_python(ArgsKwargs((), dict(arguments)))
        except ValidationError as error:
            raise BadArgumentsError(problems_of(error)) from None


_UNSUITABLE = (
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    NameError,
    TypeError,
    RecursionError,
)


def problems_of(error: ValidationError) -> str:
    """Return what does not fit, and where, without the values themselves."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(str(step) for step in each['loc']) or 'the value'}: {_PLAIN_WORDS.get(each['type'], each['msg'])}"
        for each in details[:10]
    )


_PLAIN_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "missing_argument": "is missing",
    "missing_keyword_only_argument": "is missing",
    "unexpected_keyword_argument": "is not known",
    "extra_forbidden": "is not known",
}


class _Schema(NumbersAsNumbers):
    """Leaves out defaults that are no JSON value, without a warning."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as its base declares it


def _parameters(function: Callable[..., object], what: str) -> list[inspect.Parameter]:
    """Return the parameters with their types resolved, each to be given by name."""
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(_annotated(function), include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise InvalidRequest(f"The types of the tool {what} cannot be found out: {error}.") from None
    parameters = list(signature.parameters.values())
    return [_by_name(parameter, hints, what) for parameter in parameters[is_unbound_method(function) :]]


def is_unbound_method(function: Callable[..., object]) -> bool:
    """Return whether a function is a method that was not taken from an object."""
    if not inspect.isfunction(function):
        return False
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and first.name in ("self", "cls") and first.annotation is first.empty


def _annotated(function: Callable[..., object]) -> Callable[..., object]:
    """Return what carries the annotations: a partial's function, an object's `__call__`."""
    inner = getattr(function, "func", function)
    if inspect.isroutine(inner):
        return inspect.unwrap(inner)
    return cast("Callable[..., object]", getattr(type(inner), "__call__", inner))  # noqa: B004


def _by_name(parameter: inspect.Parameter, hints: Mapping[str, Any], what: str) -> inspect.Parameter:
    if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise InvalidRequest(
            f"The parameter {parameter} of the tool {what} has no fixed name; a model gives arguments by name only."
        )
    if parameter.name not in hints:
        raise InvalidRequest(
            f"The parameter {parameter.name} of the tool {what} needs a type, as in {parameter.name}: str."
        )
    return parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=_described(portable(hints[parameter.name])))


def _described(annotation: Any) -> Any:
    """Turn words in `Annotated[…, "words"]` into a description."""
    if get_origin(annotation) is not Annotated:
        return annotation
    kind, *extras = get_args(annotation)
    return Annotated[(kind, *(_description(extra) for extra in extras))]


def _description(extra: Any) -> Any:
    words = extra if isinstance(extra, str) else getattr(extra, "documentation", None)  # typing_extensions.Doc
    if not isinstance(words, str) or isinstance(extra, FieldInfo):
        return extra
    return Field(description=words)


def _collector(parameters: list[inspect.Parameter]) -> Callable[..., dict[str, Any]]:
    """Return a function with these parameters that returns what it was given."""

    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return collect


def _tidied(schema: Mapping[str, Any], descriptions: Mapping[str, str]) -> dict[str, Any]:
    """Put the schema into the short form that models are shown: no titles, the type first."""
    properties = {
        name: _property(cast("Mapping[str, Any]", field), descriptions.get(name))
        for name, field in schema.get("properties", {}).items()
    }
    tidied: dict[str, Any] = {"type": "object", "properties": properties}
    if schema.get("required"):
        tidied["required"] = schema["required"]
    if "$defs" in schema:
        tidied["$defs"] = {name: _untitled(part) for name, part in schema["$defs"].items()}
    return tidied


def _property(field: Mapping[str, Any], description: str | None) -> dict[str, Any]:
    tidied = _untitled(field)
    if description and "description" not in tidied:
        tidied["description"] = description
    return {key: tidied[key] for key in sorted(tidied, key=lambda key: key != "type")}


def _untitled(node: Any) -> Any:
    """Leave out titles, which repeat the names; a property that is called title stays."""
    if isinstance(node, list):
        return [_untitled(part) for part in cast("list[Any]", node)]
    if not isinstance(node, Mapping):
        return node
    fields = cast("Mapping[str, Any]", node)
    return {
        key: {name: _untitled(part) for name, part in value.items()} if key == "properties" else _untitled(value)
        for key, value in fields.items()
        if not (key == "title" and isinstance(value, str)) and key not in ("default", "enum", "const", "examples")
    } | {key: fields[key] for key in ("default", "enum", "const", "examples") if key in fields}
