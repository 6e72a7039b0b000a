"""Older and looser forms of JSON Schema, rewritten as draft 2020-12 has them.

Tools are declared in many dialects: draft 4 to 7 (`items: [...]`, `exclusiveMinimum: true`, `dependencies`), the names
of types in programming languages that function-calling data sets use (`dict`, `float`, `tuple`), types in capitals,
and `required: true` beside a parameter. Models, servers and grammars are shown one form only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

_MAX_DEPTH: Final = 200  # levels; a deeper schema is refused elsewhere
_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("object", "dict", "map", "hashmap", "hashtable"), "object"),
    **dict.fromkeys(("array", "list", "tuple", "arraylist", "queue", "stack"), "array"),
    **dict.fromkeys(("number", "float", "double"), "number"),
    **dict.fromkeys(("integer", "int", "long", "short", "byte", "bigint"), "integer"),
    **dict.fromkeys(("string", "str", "char"), "string"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("null", "none", "nonetype"), "null"),
}
_ANYTHING: Final = "any"
_SIZES = frozenset({
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains",
})  # fmt: skip
_ONE_SCHEMA = (
    "items", "additionalItems", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_SCHEMA_LISTS = ("items", "anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMA_MAPS = (
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies",
)  # fmt: skip
_REFERENCE_ALONE = ("draft-03", "draft-04", "draft-06", "draft-07")  # drafts in which a $ref has no siblings
_BESIDE_REFERENCE = frozenset({"$ref", "$schema", "$defs", "definitions", "title", "description", "default"})


def modern(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema as draft 2020-12 writes it: the same object where nothing differs.

    Nothing is checked; a part that is no schema stays as it is.
    """
    return cast("Mapping[str, Any]", _Rewriting(schema).node(schema, 0))


class _Rewriting:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        named = root.get("$schema")
        self._reference_alone = isinstance(named, str) and any(draft in named for draft in _REFERENCE_ALONE)

    def node(self, node: object, depth: int) -> object:
        """Return one schema in the modern form."""
        if not isinstance(node, Mapping) or depth > _MAX_DEPTH:
            return node
        fields = dict(cast("Mapping[str, Any]", node))
        if self._reference_alone and isinstance(fields.get("$ref"), str):
            fields = {key: value for key, value in fields.items() if key in _BESIDE_REFERENCE}
        self._parts(fields, depth + 1)
        _hoist_required(fields)
        _name_types(fields)
        _exclude_limits(fields)
        _split_items(fields)
        _split_dependencies(fields)
        if isinstance(fields.get("$ref"), str) and (moved := self._moved(fields["$ref"])) != fields["$ref"]:
            fields["$ref"] = moved
        for key in _SIZES & fields.keys():
            if isinstance(fields[key], float) and fields[key].is_integer():
                fields[key] = int(fields[key])
        return node if _unchanged(cast("Mapping[str, Any]", node), fields) else fields

    def _parts(self, fields: dict[str, Any], depth: int) -> None:
        for key in _ONE_SCHEMA:
            if isinstance(fields.get(key), Mapping):
                fields[key] = self.node(fields[key], depth)
        for key in _SCHEMA_LISTS:
            if isinstance(fields.get(key), list):
                fields[key] = _same_list(fields[key], [self.node(part, depth) for part in fields[key]])
        for key in _SCHEMA_MAPS:
            if isinstance(fields.get(key), Mapping):
                parts = cast("Mapping[str, Any]", fields[key])
                made = {name: self.node(part, depth) for name, part in parts.items()}
                fields[key] = parts if _unchanged(parts, made) else made

    def _moved(self, reference: str) -> str:
        """Return a reference to a place in the schema as it was, as one to the same place in the modern form."""
        if not reference.startswith("#/"):
            return reference
        node: object = self._root
        steps: list[str] = []
        for step in reference[2:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            at = cast("Mapping[str, object]", node) if isinstance(node, Mapping) else {}
            steps.append(_moved_step(step, at))
            inner = at.get(name)
            if isinstance(node, list) and name.isdecimal() and int(name) < len(cast("list[object]", node)):
                inner = cast("list[object]", node)[int(name)]
            node = inner
        return "#/" + "/".join(steps)


def _moved_step(step: str, node: Mapping[str, object]) -> str:
    positional = isinstance(node.get("items"), list)
    match step:
        case "items" if positional and "prefixItems" not in node:
            return "prefixItems"
        case "additionalItems" if positional:
            return "items"
        case "dependencies" if isinstance(node.get("dependencies"), Mapping):
            return "dependentSchemas"
        case _:
            return step


def _hoist_required(fields: dict[str, Any]) -> None:
    """Write `required: true` of a property into the object's own list."""
    properties = fields.get("properties")
    if not isinstance(properties, Mapping):
        return
    made: dict[str, Any] = {}
    needed: list[str] = []
    for name, part in cast("Mapping[str, Any]", properties).items():
        needs = cast("Mapping[str, Any]", part).get("required") if isinstance(part, Mapping) else None
        if isinstance(needs, bool):
            made[name] = {key: value for key, value in part.items() if key != "required"}
            needed += [name] if needs else []
        else:
            made[name] = part
    if _unchanged(cast("Mapping[str, Any]", properties), made):
        return
    fields["properties"] = made
    listed: object = fields.get("required", [])
    if needed and isinstance(listed, list):
        names = cast("list[Any]", listed)
        fields["required"] = [*names, *(name for name in needed if name not in names)]


def _name_types(fields: dict[str, Any]) -> None:
    kinds = fields.get("type")
    if isinstance(kinds, str):
        if kinds.lower() == _ANYTHING:
            del fields["type"]
        else:
            fields["type"] = _TYPES.get(kinds.lower(), kinds)
    elif isinstance(kinds, list):
        names = cast("list[Any]", kinds)
        if any(isinstance(name, str) and name.lower() == _ANYTHING for name in names):
            del fields["type"]
        else:
            renamed = [_TYPES.get(name.lower(), name) if isinstance(name, str) else name for name in names]
            fields["type"] = kinds if renamed == names else renamed


def _exclude_limits(fields: dict[str, Any]) -> None:
    for exclusive, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(fields.get(exclusive), bool) and fields.pop(exclusive) and limit in fields:
            fields[exclusive] = fields.pop(limit)


def _split_items(fields: dict[str, Any]) -> None:
    items = fields.get("items")
    if isinstance(items, list) and "prefixItems" not in fields:
        del fields["items"]
        if items:
            fields["prefixItems"] = items
        if "additionalItems" in fields:
            fields["items"] = fields["additionalItems"]
    fields.pop("additionalItems", None)


def _split_dependencies(fields: dict[str, Any]) -> None:
    dependencies = fields.get("dependencies")
    if not isinstance(dependencies, Mapping):
        return
    del fields["dependencies"]
    for name, needs in cast("Mapping[str, Any]", dependencies).items():
        key = "dependentRequired" if isinstance(needs, list | str) else "dependentSchemas"
        known = fields.get(key, {})
        if isinstance(known, Mapping):
            fields[key] = {name: [needs] if isinstance(needs, str) else needs, **cast("Mapping[str, Any]", known)}


def _unchanged(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return before.keys() == after.keys() and all(before[key] is value for key, value in after.items())


def _same_list(before: list[Any], after: list[Any]) -> list[Any]:
    return before if all(old is new for old, new in zip(before, after, strict=True)) else after
