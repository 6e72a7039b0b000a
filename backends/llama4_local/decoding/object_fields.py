"""The fields that the schemas of an object name together, each with all that its value must fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from llama4sdk.errors import InvalidRequest
from llama4sdk.output.fitting import fits_part

if TYPE_CHECKING:
    from llama4sdk.output import JsonSchema

Node: TypeAlias = Mapping[str, Any]
Way: TypeAlias = tuple[Node, ...]

# What `ObjectFields` takes from a part; `dependentRequired` is left to the final check.
_PART_KEYS: Final = frozenset({
    "type", "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
    "maxProperties", "dependentRequired",
})  # fmt: skip
_COMBINING: Final = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
_MAX_WAYS: Final = 64
_MAX_DEPTH: Final = 20


class Unsatisfiable(InvalidRequest):
    """A schema, or a part of one, that no value fits."""


def ways_of(schema: JsonSchema, node: Node, constraining: AbstractSet[str]) -> list[Way] | None:
    """Return the ways in which an object can fit a node, what its `$ref`, `allOf` and alternatives add included.

    Args:
        schema: Where references are looked up.
        node: One of its schemas.
        constraining: The keywords that a grammar keeps.

    Returns:
        Of each way the schemas that an object must fit at once, in their order; None where the node describes more
        than objects, or holds keywords that no list of fields can express, or where there are too many ways.
    """
    ways = _ways(schema, node, constraining, 0)
    kinds = [_kind_of(way) for way in ways or ()]
    if ways is None or None in kinds:
        return None
    return [way for way, kind in zip(ways, kinds, strict=True) if kind == "object"]


def _ways(schema: JsonSchema, node: object, constraining: AbstractSet[str], depth: int) -> list[Way] | None:
    if isinstance(node, bool):
        return [()] if node else []
    if not isinstance(node, Mapping) or depth > _MAX_DEPTH:
        return None
    node = cast("Node", node)
    own = {key: node[key] for key in node if key in constraining - _COMBINING}
    if not _PART_KEYS.issuperset(own):
        return None
    ways: list[Way] = [()]
    place = "properties" if "properties" in own else next(iter(own), None)  # of the node's own fields among the others
    for key in node:
        if key == place:
            ways = [(*way, own) for way in ways]
        for options in _options(schema, node, key):
            inner = [_ways(schema, option, constraining, depth + 1) for option in options]
            more = [way for some in inner for way in some or ()]
            if None in inner or len(ways) * len(more) > _MAX_WAYS:
                return None
            ways = [(*before, *after) for before in ways for after in more]
    return ways


def _options(schema: JsonSchema, node: Node, key: str) -> list[Sequence[object]]:
    """Return what a keyword adds to a node: groups of schemas, of each of which one must be fitted."""
    match key:
        case "$ref":
            return [[schema.resolve(str(node[key]))]]
        case "allOf":
            return [[part] for part in node[key]]
        case "anyOf" | "oneOf":
            return [node[key]]
        case _:
            return []


def _kind_of(way: Way) -> str | None:
    """Return "object", "none" where no value is of all types, or None where not only objects fit."""
    types = [part["type"] for part in way if "type" in part]
    if not all(isinstance(kind, str) for kind in types):
        return None
    if len(set(types)) > 1 and "object" in types:
        return "none"
    return "object" if types[:1] == ["object"] or (not types and any("properties" in part for part in way)) else None


@dataclass(frozen=True, slots=True)
class ObjectFields:
    """Fields that can be written.

    Args:
        schemas: The schema of each field, in the order in which they are declared.
        required: The names of those that must be there.
        least: The least number of fields.
        most: The most; None for any number.
    """

    schemas: Mapping[str, object]
    required: frozenset[str]
    least: int = 0
    most: int | None = None

    @classmethod
    def of(cls, schema: JsonSchema, parts: Sequence[Node]) -> ObjectFields:
        """Return the fields of an object that fits several schemas at once.

        A required field that a part does not declare has that part's schema of additional ones. A name that
        `propertyNames` does not allow is left out, and a field's value also fits the patterns that its name matches.

        Args:
            schema: The whole schema that the parts are from.
            parts: The object's schemas.

        Raises:
            Unsatisfiable: When a required field cannot be written.
        """
        required = frozenset(name for part in parts for name in part.get("required", ()))
        declared = [name for part in parts for name in part.get("properties", ())]
        names = list(dict.fromkeys([*declared, *sorted(required)]))
        schemas: dict[str, object] = {}
        for name in names:
            whole = all_of([of_field for part in parts for of_field in _schemas_of(schema, part, name)])
            if whole is not False and all(_is_name(schema, part, name) for part in parts):
                schemas[name] = whole
        missing = sorted(required - set(schemas))
        if missing:
            raise Unsatisfiable(f"A schema requires the field {missing[0]!r} and allows no such field.")
        return cls(schemas, required, *count_of(parts))

    def only(self, names: frozenset[str]) -> ObjectFields:
        """Return those of the fields that are among the names."""
        schemas = {name: schema for name, schema in self.schemas.items() if name in names}
        return ObjectFields(schemas, self.required, self.least, self.most)


def count_of(parts: Sequence[Node]) -> tuple[int, int | None]:
    """Return the least and the most fields of an object that fits several schemas; None for any number."""
    most = [int(part["maxProperties"]) for part in parts if "maxProperties" in part]
    return max((int(part.get("minProperties", 0)) for part in parts), default=0), min(most, default=None)


def all_of(schemas: Sequence[object]) -> object:
    """Return the schema of the values that fit all of them."""
    if any(schema is False for schema in schemas):
        return False
    telling: list[object] = []
    for schema in schemas:
        if schema is not True and schema != {} and schema not in telling:
            telling.append(schema)
    return {"allOf": telling} if len(telling) > 1 else telling[0] if telling else True


def _schemas_of(schema: JsonSchema, part: Node, name: str) -> list[object]:
    """Return what one part asks of the value of a field."""
    properties = cast("Mapping[str, object]", part.get("properties", {}))
    patterns = cast("Mapping[str, object]", part.get("patternProperties", {}))
    own = [properties[name]] if name in properties else []
    own += [of_matching for pattern, of_matching in patterns.items() if schema.matches(pattern, name)]
    return own or [part.get("additionalProperties", True)]


def _is_name(schema: JsonSchema, part: Node, name: str) -> bool:
    return fits_part(schema, part.get("propertyNames", True), name)
