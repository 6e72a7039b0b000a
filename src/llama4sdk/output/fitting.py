"""Checks a value against a JSON schema, and mends what is surely meant otherwise.

Mended are a number or a boolean written as a string, a whole number written as 3.0, and a list or an object
written as JSON in a string: what servers and models get wrong most.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

if TYPE_CHECKING:
    from llama4sdk.output.json_schema import JsonSchema, Schema

_Rule: TypeAlias = "Callable[[_Fit, Schema, Any, str], Any]"

_MAX_STEPS: Final = 200_000  # checks of one value against parts of one schema
_MAX_DEPTH: Final = 200
_MAX_PROBLEMS: Final = 20


def fit(schema: JsonSchema, value: object, *, mending: bool = True) -> tuple[Any, list[str]]:
    """Check a value, mending common slips, such as "3" where a number belongs.

    Args:
        schema: The schema.
        value: A value as JSON holds it.
        mending: Whether slips are mended; else they are problems.

    Returns:
        The mended value, and its problems, one line each; none when it fits.
    """
    work = _Fit(schema, mending)
    fitted = work.node(schema.root, value, "")
    return fitted, work.problems


def fits_part(schema: JsonSchema, part: object, value: object) -> bool:
    """Return whether a value fits one of a schema's parts as it is, references within the schema followed."""
    work = _Fit(schema, mending=False)
    work.node(part, value, "")
    return not work.problems


class _Fit:
    """One check: the problems so far and the work left."""

    def __init__(self, schema: JsonSchema, mending: bool) -> None:
        self.schema = schema
        self.problems: list[str] = []
        self.mending = mending
        self._steps = 0
        self._depth = 0
        self._under_way: set[tuple[int, str]] = set()  # parts of the schema, and the places they are checked at

    def problem(self, path: str, text: str) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(f"{path or 'the value'}: {text}")

    def node(self, node: Any, value: Any, path: str) -> Any:
        """Check a value against one schema and return it mended."""
        if isinstance(node, bool):
            if not node:
                self.problem(path, "is not allowed")
            return value
        self._steps += 1
        if self._steps > _MAX_STEPS or self._depth > _MAX_DEPTH:
            self.problem(path, "takes too much work to check")
            return value
        here = (id(node), path)
        if here in self._under_way:
            self.problem(path, "is described by a part of the schema that refers to itself")
            return value
        self._under_way.add(here)
        self._depth += 1
        try:
            for applies, rule in _RULES:
                if not applies.isdisjoint(node):
                    value = rule(self, node, value, path)
            return value
        finally:
            self._depth -= 1
            self._under_way.discard(here)

    def attempt(self, node: Any, value: Any, path: str, *, mending: bool = False) -> tuple[Any, list[str]]:
        """Check without noting problems; return the value and what they would be."""
        kept, was_mending = self.problems, self.mending
        self.problems, self.mending = [], mending and was_mending
        fitted = self.node(node, value, path)
        problems, self.problems, self.mending = self.problems, kept, was_mending
        return fitted, problems


def _reference(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    return work.node(work.schema.resolve(str(node["$ref"])), value, path)


def _type(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    types = cast("list[str]", node["type"] if isinstance(node["type"], list) else [node["type"]])
    if any(_is(value, name) for name in types):
        return int(value) if isinstance(value, float) and "integer" in types and value.is_integer() else value
    if work.mending:
        for name in types:
            mended = _mended(value, name)
            if _is(mended, name):
                return mended
    work.problem(path, f"is {_kind(value)}, not {' or '.join(types)}")
    return value


def _is(value: Any, name: str) -> bool:
    match name:
        case "object":
            return isinstance(value, Mapping)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            return not isinstance(value, bool) and (
                isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            )
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)


def _mended(value: Any, name: str) -> Any:
    if not isinstance(value, str) or name in ("string", "null"):
        return value
    text = value.strip()
    if name == "boolean":
        return {"true": True, "false": False}.get(text.lower(), value)
    try:
        parsed = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return value
    return int(parsed) if name == "integer" and isinstance(parsed, float) and parsed.is_integer() else parsed


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
        case _:
            return "object"


def _choices(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    choices = cast("list[Any]", node["enum"] if "enum" in node else [node["const"]])
    for choice in choices:
        if _same(choice, value):
            return value
    if work.mending:
        for choice in choices:
            if not isinstance(choice, str) and _same(choice, _mended(value, _kind(choice))):
                return choice
    shown = ", ".join(json.dumps(choice, ensure_ascii=False)[:40] for choice in choices[:20])
    work.problem(path, f"is none of {shown}{', …' if len(choices) > 20 else ''}")
    return value


def _same(a: Any, b: Any) -> bool:
    """Return whether two JSON values are equal; 1 and true are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        ours, theirs = cast("list[Any]", a), cast("list[Any]", b)
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        left, right = cast("Mapping[str, Any]", a), cast("Mapping[str, Any]", b)
        return left.keys() == right.keys() and all(_same(item, right[key]) for key, item in left.items())
    return bool(a == b)


def _number(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    limits: Mapping[str, tuple[Callable[[float, float], bool], str]] = {
        "minimum": (lambda number, limit: number >= limit, "is below"),
        "maximum": (lambda number, limit: number <= limit, "is above"),
        "exclusiveMinimum": (lambda number, limit: number > limit, "is not above"),
        "exclusiveMaximum": (lambda number, limit: number < limit, "is not below"),
        "multipleOf": (_is_multiple, "is no multiple of"),
    }
    for key, (holds, words) in limits.items():
        if key in node and not holds(value, node[key]):
            work.problem(path, f"{words} {node[key]}")
    return value


def _is_multiple(number: float, of: float) -> bool:
    if isinstance(number, int) and isinstance(of, int):
        return number % of == 0
    if not math.isfinite(number):
        return False
    return Fraction(repr(number)) % Fraction(repr(of)) == 0  # exact in decimal digits, as the numbers are written


def _string(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    if isinstance(value, str):
        _length(work, node, len(value), path, "Length", "characters")
        if "pattern" in node and not work.schema.matches(str(node["pattern"]), value):
            work.problem(path, f"does not match the pattern {str(node['pattern'])[:80]!r}")
    return value


def _length(work: _Fit, node: Schema, length: int, path: str, what: str, unit: str) -> None:
    least, most = node.get(f"min{what}"), node.get(f"max{what}")
    if least is not None and length < least:
        work.problem(path, f"has fewer than {least} {unit}")
    if most is not None and length > most:
        work.problem(path, f"has more than {most} {unit}")


def _array(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    if not isinstance(value, list):
        return value
    items = cast("list[Any]", value)
    _length(work, node, len(items), path, "Items", "items")
    first = cast("list[Any]", node.get("prefixItems", []))
    others: Any = node.get("items", True)
    fitted = [
        work.node(first[place] if place < len(first) else others, item, f"{path}[{place}]")
        for place, item in enumerate(items)
    ]
    if node.get("uniqueItems") is True and _repeats(fitted):
        work.problem(path, "holds the same item twice")
    if "contains" in node:
        _contains(work, node, fitted, path)
    return fitted


def _repeats(items: list[Any]) -> bool:
    return len({_key(item) for item in items}) < len(items)


def _key(value: Any) -> Hashable:
    """Return what two JSON values have in common when, and only when, they are equal."""
    match value:
        case list():
            return ("array", *map(_key, cast("list[Any]", value)))
        case Mapping():
            fields = cast("Mapping[str, Any]", value)
            return ("object", frozenset((name, _key(item)) for name, item in fields.items()))
        case _:
            return (isinstance(value, bool), value)


def _contains(work: _Fit, node: Schema, items: list[Any], path: str) -> None:
    count = sum(not work.attempt(node["contains"], item, path)[1] for item in items)
    if count < node.get("minContains", 1) or count > node.get("maxContains", len(items)):
        work.problem(path, "does not hold the right number of the items that it must contain")


def _object(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    fields = cast("Mapping[str, Any]", value)
    _length(work, node, len(fields), path, "Properties", "fields")
    for name in cast("list[str]", node.get("required", [])):
        if name not in fields:
            work.problem(_joined(path, name), "is missing")
    _dependent(work, node, fields, path)
    return {name: _field(work, node, name, item, _joined(path, name)) for name, item in fields.items()}


def _dependent(work: _Fit, node: Schema, fields: Mapping[str, Any], path: str) -> None:
    needs = node.get("dependentRequired")
    for name, needed in cast("Mapping[str, list[str]]", needs if isinstance(needs, Mapping) else {}).items():
        for other in needed:
            if name in fields and other not in fields:
                work.problem(_joined(path, other), f"is missing beside {name}")


def _dependent_schemas(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        for name, schema in cast("Mapping[str, Any]", node["dependentSchemas"]).items():
            if name in value:
                value = work.node(schema, value, path)
    return cast("Any", value)


def _field(work: _Fit, node: Schema, name: str, item: Any, path: str) -> Any:
    if "propertyNames" in node and work.attempt(node["propertyNames"], name, path)[1]:
        work.problem(path, "has a name that is not allowed")
    properties = cast("Mapping[str, Any]", node.get("properties", {}))
    patterns = cast("Mapping[str, Any]", node.get("patternProperties", {}))
    schemas = [properties[name]] if name in properties else []
    schemas += [schema for pattern, schema in patterns.items() if work.schema.matches(pattern, name)]
    if not schemas:
        others = node.get("additionalProperties", True)
        if others is False:
            work.problem(path, "is not known")
            return item
        schemas = [others]
    for schema in schemas:
        item = work.node(schema, item, path)
    return item


def _joined(path: str, name: str) -> str:
    return f"{path}.{name[:80]}" if path else name[:80]


def _all_of(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    for part in node["allOf"]:
        value = work.node(part, value, path)
    return value


def _any_of(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    return _one_that_fits(work, node["anyOf"], value, path, exactly_one=False)


def _one_of(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    return _one_that_fits(work, node["oneOf"], value, path, exactly_one=True)


def _one_that_fits(work: _Fit, options: list[Any], value: Any, path: str, *, exactly_one: bool) -> Any:
    """Take the first alternative that fits as it is, else the first that fits when mended."""
    for mending in (False, True):
        attempts = [work.attempt(option, value, path, mending=mending) for option in options]
        fitting = [fitted for fitted, problems in attempts if not problems]
        if exactly_one and len(fitting) > 1:
            work.problem(path, "fits more than one of the alternatives")
            return value
        if fitting:
            return fitting[0]
    work.problem(path, "fits none of the alternatives")
    return value


def _excluded(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    if not work.attempt(node["not"], value, path)[1]:
        work.problem(path, "is what it must not be")
    return value


def _condition(work: _Fit, node: Schema, value: Any, path: str) -> Any:
    branch = "else" if work.attempt(node["if"], value, path)[1] else "then"
    return work.node(node[branch], value, path) if branch in node else value


# In the order in which they are applied: the kind of a value is mended before anything else looks at it.
_RULES: tuple[tuple[frozenset[str], _Rule], ...] = (
    (frozenset({"$ref"}), _reference),
    (frozenset({"type"}), _type),
    (frozenset({"allOf"}), _all_of),
    (frozenset({"anyOf"}), _any_of),
    (frozenset({"oneOf"}), _one_of),
    (frozenset({"enum"}), _choices),
    (frozenset({"const"}), lambda work, node, value, path: _choices(work, {"const": node["const"]}, value, path)),
    (frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}), _number),
    (frozenset({"minLength", "maxLength", "pattern"}), _string),
    (frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"}), _array),
    (
        frozenset({"properties", "patternProperties", "additionalProperties", "required", "minProperties"})
        | {"maxProperties", "propertyNames", "dependentRequired"},
        _object,
    ),
    (frozenset({"dependentSchemas"}), _dependent_schemas),
    (frozenset({"not"}), _excluded),
    (frozenset({"if"}), _condition),
)
