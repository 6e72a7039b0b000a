"""Tools as an application declares them: functions, schemas, or both."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, cast, overload

from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import tool_name
from llama4sdk.output.fitting import fit
from llama4sdk.output.json_schema import JsonSchema
from llama4sdk.request import ToolSpec, check_different
from llama4sdk.tools.docstrings import describe
from llama4sdk.tools.schema import BadArgumentsError, FunctionSchema, is_unbound_method
from llama4sdk.tools.whole_text import CallsRead, read_specs

P = ParamSpec("P")
R = TypeVar("R")

_MAX_DESCRIPTION = 10_000  # characters


class Tool(Generic[P, R]):
    """A function that the model may call, and what it is told of it; made by `tool`.

    It can be called like the function itself.

    Args:
        function: What runs; its parameters need types, unless `parameters` is given.
        name: What the model calls it; the function's name when left out.
        description: What it does; the docstring's words when left out.
        parameters: JSON schema of the arguments, in place of the function's types.
        timeout: Seconds that a call may take; the loop's default when left out.
        max_result: Characters that the model is shown of a result; the loop's default when left out.

    Raises:
        InvalidRequest: For a bad name or schema, or a type that no JSON value can be.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        max_result: int | None = None,
    ) -> None:
        if not callable(function):
            raise InvalidRequest(f"A tool is made from a function, not from {type(function).__name__}.")
        if not _is_number_above(timeout, 0) or not _is_number_above(max_result, 0) or isinstance(max_result, float):
            raise InvalidRequest("A tool's timeout is above 0 seconds, and its max_result at least 1 character.")
        functools.update_wrapper(self, function)
        self.function = function
        self.timeout = timeout
        self.max_result = max_result
        self._asked = (name, description, parameters)
        said = describe(getattr(function, "__doc__", None))
        self.unbound = is_unbound_method(function)
        """Whether it is a method that was not taken from an object."""
        self._schema = None if parameters is not None else FunctionSchema(function, said.parameters)
        self._checked = JsonSchema(parameters or {})
        shown = parameters if self._schema is None else self._schema.parameters
        words = said.text if description is None else description
        if len(words) > _MAX_DESCRIPTION:
            raise InvalidRequest(
                f"A tool's description has at most {_MAX_DESCRIPTION:,} characters; got {len(words):,}."
            )
        called = str(getattr(function, "__name__", "")) if name is None else name
        self.spec = ToolSpec(tool_name(called), words, shown or {})

    @property
    def name(self) -> str:
        """Its name for the model."""
        return self.spec.name

    @property
    def description(self) -> str:
        """Its description for the model."""
        return self.spec.description

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON schema of its arguments."""
        return self.spec.parameters

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    def __get__(self, owner: object, kind: type | None = None) -> Tool[..., R]:
        """Bind a method that was declared a tool to its object."""
        bind = getattr(self.function, "__get__", None)
        if owner is None or bind is None or not self.unbound:
            return self
        name, description, parameters = self._asked
        return Tool(
            cast("Callable[..., R]", bind(owner, kind)),
            name=name,
            description=description,
            parameters=parameters,
            timeout=self.timeout,
            max_result=self.max_result,
        )

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"

    def validated(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments as the function takes them.

        Raises:
            BadArgumentsError: When they do not fit; the message is for the model.
        """
        if self._schema is not None:
            return self._schema.validated(arguments)
        fitted, problems = fit(self._checked, arguments)
        if problems:
            raise BadArgumentsError("; ".join(problems))
        return cast("dict[str, Any]", fitted)


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    max_result: int | None = None,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> object:
    """Declare a function as a tool, with a name and limits of its own when they are given.

        @tool(timeout=5)
        def get_weather(city: str, days: int = 1) -> str:
            \"\"\"Get the weather of a city.\"\"\"

    Args:
        function: The function, when used without brackets.
        options: As for `Tool`: name, description, parameters, timeout, max_result.

    Raises:
        InvalidRequest: For a bad name or schema, or a type that no JSON value can be.
    """
    if function is not None:
        return Tool(function)

    def decorate(function: Callable[..., Any]) -> Tool[..., Any]:
        return Tool(function, **options)

    return decorate


ToolLike: TypeAlias = "Tool[..., Any] | ToolSpec | Callable[..., Any] | Mapping[str, Any]"


def declared(tools: Iterable[ToolLike]) -> tuple[Tool[..., Any] | ToolSpec, ...]:
    """Return what was declared as tools: functions become `Tool`, the familiar dicts `ToolSpec`.

    Raises:
        InvalidRequest: For two tools of one name, a bad schema, or something that is no tool.
    """
    if isinstance(tools, str | Mapping | ToolSpec) or not isinstance(tools, Iterable):
        raise InvalidRequest("tools is a list of tools.")
    tools_declared = tuple(_one(tool) for tool in tools)
    check_different([each.name for each in tools_declared])
    return tools_declared


def specs_of(tools: Iterable[ToolLike]) -> tuple[ToolSpec, ...]:
    """Return what the model is told of the tools.

    Raises:
        InvalidRequest: As `declared`.
    """
    return tuple(each.spec if isinstance(each, Tool) else each for each in declared(tools))


def read_calls(text: str, tools: Iterable[ToolLike]) -> CallsRead:
    """Return the tool calls in a text, and what is left of it; raises for no text.

        read_calls('Let me see. [get_weather(city="Paris")]', [get_weather])

    Args:
        text: An answer, in any of the forms that models write calls in.
        tools: Tools, functions, `ToolSpec` or familiar dicts; only these count.

    Raises:
        InvalidRequest: For tools that cannot be declared.
    """
    return read_specs(text, specs_of(tools))


def _is_number_above(value: object, least: float) -> bool:
    """Return whether a limit is none, or a number above the least one."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > least)


def _one(value: ToolLike) -> Tool[..., Any] | ToolSpec:
    if isinstance(value, Tool):
        if value.unbound:
            raise InvalidRequest(
                f"The tool {value.name} is a method; take it from an object, as in thing.{value.name}."
            )
        return value
    if isinstance(value, ToolSpec):
        JsonSchema(value.parameters)
        return value
    if isinstance(value, Mapping):
        return _of_dict(value)
    if callable(value):
        return _one(Tool(value))
    raise InvalidRequest(f"A tool is a function, a Tool, a ToolSpec or a dict, not {type(value).__name__}.")


def _of_dict(value: Mapping[str, Any]) -> ToolSpec:
    inner = value.get("function", value)
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise InvalidRequest('A tool looks like {"type": "function", "function": {"name": "…", "parameters": {…}}}.')
    fields = cast("Mapping[str, Any]", inner)
    parameters = fields.get("parameters") or fields.get("input_schema") or {"type": "object", "properties": {}}
    JsonSchema(parameters)
    return ToolSpec(fields["name"], str(fields.get("description") or ""), parameters)
