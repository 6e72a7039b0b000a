"""JSON schemas that callers hand in: read once, with limits, and checked against without surprises.

Regular expressions run in pydantic's engine, whose time is linear in the text, so that no pattern hangs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from llama4sdk.errors import InvalidRequest
from llama4sdk.parts import checked_text
from llama4sdk.schema_drafts import modern

if TYPE_CHECKING:
    from llama4sdk.request import ToolSpec

MAX_DEPTH: Final = 100
MAX_NODES: Final = 100_000
_MAX_PATTERN = 10_000  # characters
_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
# What constrains an answer and is not understood here; the rest of what is unknown are annotations.
_UNSUPPORTED = frozenset({
    "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor", "unevaluatedProperties", "unevaluatedItems",
    "contentSchema",
})  # fmt: skip
_ONE_SCHEMA = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_SIZES = frozenset({
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains",
})  # fmt: skip

Schema = Mapping[str, Any]


class JsonSchema:
    """A JSON schema that is checked for use.

    Args:
        schema: The schema; `$ref` may point to places within it. Forms of older drafts are rewritten.

    Raises:
        InvalidRequest: For one that is malformed, too deep, too large, or uses what is not supported.
    """

    def __init__(self, schema: object) -> None:
        if not isinstance(schema, Mapping):
            raise InvalidRequest(f"A JSON schema is a dict, not {type(schema).__name__}.")
        self._patterns: dict[str, SchemaValidator] = {}
        _check_size(cast("Schema", schema))
        self.root: Schema = modern(cast("Schema", schema))
        """The schema in the form of draft 2020-12."""
        waiting: list[tuple[str, object]] = [("#", self.root)]
        seen: set[int] = set()
        while waiting:  # what is referred to may stand where no keyword of schemas leads
            place, target = waiting.pop()
            for path, node in () if id(target) in seen else _nodes(place, target):
                if id(node) not in seen:
                    seen.add(id(node))
                    waiting += self._check(path, node)

    def matches(self, pattern: str, text: str) -> bool:
        """Return whether one of the schema's patterns is found in a text."""
        try:
            self._patterns[pattern].validate_python(text)
        except ValidationError:
            return False
        return True

    def resolve(self, reference: str) -> object:
        """Return what a `$ref` points to.

        Raises:
            InvalidRequest: When that is nothing in this schema.
        """
        node: object = self.root
        steps = reference.removeprefix("#").split("/")
        if not reference.startswith("#") or steps[0]:
            raise InvalidRequest(f"The JSON schema refers to {reference[:80]!r}; only places within it, '#/…', can be.")
        for step in steps[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(node, Mapping) and name in node:
                node = cast("Mapping[str, object]", node)[name]
            elif isinstance(node, list) and name.isdigit() and int(name) < len(cast("list[object]", node)):
                node = cast("list[object]", node)[int(name)]
            else:
                raise InvalidRequest(f"The JSON schema refers to {reference[:80]!r}, which is not in it.")
        return node

    def _check(self, path: str, node: Schema) -> Iterator[tuple[str, object]]:
        """Check one schema without those in it, and yield the place and the schema that it refers to."""
        unsupported = sorted(_UNSUPPORTED & set(node))
        if unsupported:
            raise InvalidRequest(f"The JSON schema uses {', '.join(unsupported)} at {path}, which is not supported.")
        types = node.get("type", [])
        names = cast("list[object]", types if isinstance(types, list) else [types])
        unknown = [name for name in names if name not in _TYPES]
        if unknown:
            raise InvalidRequest(f"The JSON schema's type at {path} is {str(unknown[0])[:80]!r}; no such type.")
        for key in sorted((_NUMBERS | _SIZES) & set(node)):
            number = node[key]
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise InvalidRequest(f"The JSON schema's {key} at {path} is no number.")
            if key in _SIZES and not isinstance(number, int):
                raise InvalidRequest(f"The JSON schema's {key} at {path} is no whole number.")
        self._check_containers(path, node)
        for pattern in _patterns_of(node):
            if pattern not in self._patterns:
                self._patterns[pattern] = _compiled(pattern, path)
        if "$ref" in node:
            target = self.resolve(str(node["$ref"]))
            if not isinstance(target, Mapping | bool):
                raise InvalidRequest(f"The JSON schema refers at {path} to something that is no schema.")
            yield str(node["$ref"]), cast("object", target)

    def _check_containers(self, path: str, node: Schema) -> None:
        for key, kind in (("required", list), ("enum", list), *((key, list) for key in _SCHEMA_LISTS)):
            if key in node and not isinstance(node[key], kind):
                raise InvalidRequest(f"The JSON schema's {key} at {path} is no list.")
        for key in _SCHEMA_MAPS:
            if key in node and not isinstance(node[key], Mapping):
                raise InvalidRequest(f"The JSON schema's {key} at {path} is no dict.")
        if isinstance(node.get("multipleOf"), int | float) and node["multipleOf"] <= 0:
            raise InvalidRequest(f"The JSON schema's multipleOf at {path} is not above 0.")


def schema_of(tool: ToolSpec) -> JsonSchema:
    """Return the schema of a tool's arguments; one that cannot be used takes anything."""
    try:
        return JsonSchema(tool.parameters)
    except InvalidRequest:
        return JsonSchema({})


def _check_size(schema: Schema) -> None:
    """Refuse a schema that is too deep or too large, without recursion and before anything else looks at it."""
    level: list[object] = [schema]
    nodes = 0
    for _ in range(2 * MAX_DEPTH):
        if not level:
            return
        nodes += len(level)
        if nodes > MAX_NODES:
            raise InvalidRequest(f"The JSON schema holds more than {MAX_NODES:,} values; make it smaller.")
        level = [part for node in level for part in _parts(node)]
    raise InvalidRequest(f"The JSON schema is nested more than {MAX_DEPTH} levels deep.")


def _parts(node: object) -> Iterator[object]:
    if isinstance(node, Mapping):
        for key in cast("Mapping[object, object]", node):
            if not isinstance(key, str):
                raise InvalidRequest("The keys of a JSON schema are strings.")
            checked_text(key)
        yield from cast("Mapping[str, object]", node).values()
    elif isinstance(node, list | tuple):
        yield from cast("Sequence[object]", node)
    elif isinstance(node, str):
        checked_text(node)
    elif not (node is None or isinstance(node, bool | int | float)):
        raise InvalidRequest(f"A JSON schema holds JSON values only, no {type(node).__name__}.")


def _nodes(place: str, schema: object) -> Iterator[tuple[str, Schema]]:
    """Yield a schema that stands at a place and every one within it, with its place."""
    waiting: list[tuple[str, object]] = [(place, schema)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, bool):
            continue
        if not isinstance(node, Mapping):
            raise InvalidRequest(f"The JSON schema holds something that is no schema at {path}.")
        yield path, cast("Schema", node)
        waiting += _inner(path, cast("Schema", node))


def _inner(path: str, node: Schema) -> Iterator[tuple[str, object]]:
    for key in _ONE_SCHEMA:
        if key in node:
            yield f"{path}/{key}", node[key]
    for key in _SCHEMA_LISTS:
        if isinstance(node.get(key), list):
            yield from ((f"{path}/{key}/{place}", part) for place, part in enumerate(node[key]))
    for key in _SCHEMA_MAPS:
        if isinstance(node.get(key), Mapping):
            yield from ((f"{path}/{key}/{name}", part) for name, part in node[key].items())


def _patterns_of(node: Schema) -> Iterator[str]:
    if isinstance(node.get("pattern"), str):
        yield node["pattern"]
    patterns = node.get("patternProperties")
    if isinstance(patterns, Mapping):
        yield from cast("Mapping[str, object]", patterns)


def _compiled(pattern: str, path: str) -> SchemaValidator:
    if len(pattern) <= _MAX_PATTERN:
        try:
            return SchemaValidator(core_schema.str_schema(pattern=pattern))
        except SchemaError:
            pass
    raise InvalidRequest(
        f"The JSON schema's pattern at {path} cannot be used: look-around, back-references and very large "
        "repeats are not supported."
    )
