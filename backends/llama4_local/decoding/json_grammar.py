"""The grammar of JSON values that fit a schema, in JSON's notation or in Python's.

Written in llguidance's dialect of Lark. It mostly allows less than the schema does: fields come in the order in which
they are declared, and where a schema names fields no others are written. Schemas that are too intricate for rules of
our own are left to llguidance's reader of schemas. Keywords that neither expresses are checked when the answer is
complete; `docs/typed-answers.md` lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from llama4_local.decoding.object_fields import Node, ObjectFields, Unsatisfiable, Way, all_of, count_of, ways_of
from llama4_local.decoding.string_formats import FORMATS
from llama4sdk.errors import InvalidRequest
from llama4sdk.output import JsonSchema
from llama4sdk.output.fitting import fit

# As `json.dumps` writes, which is what models are shown in prompts and the bundled one is trained on.
JSON_STYLE: Mapping[str, object] = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "lenient": True,
}
_INTEGER: Final = "/-?(0|[1-9][0-9]{0,17})/"
# Two digits of exponent, so that the number is finite.
_NUMBER: Final = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][-+]?[0-9]{1,2})?/"
_MAX_RULES: Final = 20_000
_MAX_LENGTH: Final = 1_000_000  # characters
_MAX_DEPTH: Final = 60
_MAX_FIELDS: Final = 1000
_LIMITS: Mapping[str, tuple[str, ...]] = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("prefixItems", "contains"),
}
_COMBINING: Final = frozenset({"$ref", "anyOf", "oneOf", "allOf", "not", "if"})
_JOINING: Final = frozenset({"$ref", "anyOf", "oneOf", "allOf"})
_CHOOSING: Final = frozenset({"enum", "const"})
_CONSTRAINING: Final = (
    _COMBINING
    | _CHOOSING
    | {"type", "properties", "required", "additionalProperties", "items", "dependentRequired"}
    | {"minItems", "maxItems", "uniqueItems", "propertyNames", "patternProperties", "minProperties", "maxProperties"}
    | {key for keys in _LIMITS.values() for key in keys}
)


@dataclass(frozen=True, slots=True)
class Notation:
    """How values are written.

    Args:
        true: The constant.
        false: The constant.
        null: The constant.
    """

    true: str
    false: str
    null: str

    def text(self, value: Any) -> str:
        """Return a value as it is written."""
        match value:
            case None:
                return self.null
            case bool():
                return self.true if value else self.false
            case list():
                return f"[{', '.join(map(self.text, cast('list[Any]', value)))}]"
            case dict():
                fields = cast("dict[str, Any]", value).items()
                return "{" + ", ".join(f"{quoted(name)}: {self.text(item)}" for name, item in fields) + "}"
            case _:
                return json.dumps(value, ensure_ascii=False)


JSON: Final = Notation("true", "false", "null")
PYTHON: Final = Notation("True", "False", "None")


class Rules:
    """The rules of one grammar, by name."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._length = 0

    def add(self, body: str, name: str | None = None) -> str:
        """Add a rule and return its name.

        Raises:
            InvalidRequest: When the grammar gets too large.
        """
        name = name or f"r{len(self._lines)}"
        self._lines.append(f"{name}: {body}")
        self._length += len(body)
        if len(self._lines) > _MAX_RULES or self._length > _MAX_LENGTH:
            raise InvalidRequest("The schemas are too large for a grammar; make them simpler, or declare fewer tools.")
        return name

    def reserve(self) -> str:
        """Return a name for a rule that is filled in later, as those that refer to themselves are."""
        return self.add("")

    def fill(self, name: str, body: str) -> None:
        """Fill in a rule whose name was reserved."""
        self._lines[int(name[1:])] = f"{name}: {body}"

    @property
    def text(self) -> str:
        """The whole grammar."""
        return "\n".join(self._lines)


class Values:
    """Rules of the values that fit one schema and its parts.

    Args:
        schema: The schema, which references are looked up in.
        rules: Where the rules go.
        notation: How values are written.

    Raises:
        InvalidRequest: For a schema that cannot be used.
    """

    def __init__(self, schema: object, rules: Rules, notation: Notation) -> None:
        self._schema = JsonSchema(schema)
        self._rules = rules
        self._notation = notation
        self._references: dict[str, str] = {}
        self._depth = 0

    def listed(self, items: Sequence[tuple[str, bool]]) -> str:
        """Return the rule of items in their order, separated by commas; of each, whether it must be there.

        Raises:
            InvalidRequest: For too many.
        """
        if len(items) > _MAX_FIELDS:
            raise InvalidRequest(f"A schema names more than {_MAX_FIELDS} arguments or fields; declare fewer.")
        first, later = '""', '""'
        for item, needed in reversed(items):
            after = self._rules.add(later)
            first = f"{item} {after}" if needed else f"{item} {after} | {self._rules.add(first)}"
            later = f'", " {item} {after}' if needed else f'(", " {item})? {after}'
        return self._rules.add(first)

    def value(self, schema: object) -> str:
        """Return the rule of the values that fit a schema.

        Raises:
            InvalidRequest: When no value can, or the grammar gets too large.
        """
        if schema is False:
            raise Unsatisfiable("A schema allows no value where one is needed.")
        if not isinstance(schema, Mapping) or not _CONSTRAINING & set(cast("Mapping[str, Any]", schema)):
            return self._anything()
        node = cast("Mapping[str, Any]", schema)
        self._depth += 1
        try:
            return self._leaf(node) if self._depth > _MAX_DEPTH else self._rule(node)
        finally:
            self._depth -= 1

    def _rule(self, node: Mapping[str, Any]) -> str:
        if _CHOOSING & set(node) and not _COMBINING & set(node):
            return self._choices(node)
        match sorted(_CONSTRAINING & set(node)):
            case ["$ref"]:
                return self._reference(str(node["$ref"]))
            case ["anyOf" | "oneOf" as key]:
                return self._any_of([partial(self.value, option) for option in node[key]])
            case keys if _JOINING & set(keys) and (ways := ways_of(self._schema, node, _CONSTRAINING)) is not None:
                return self._any_of([partial(self._merged, way) for way in ways])
            case keys if _COMBINING & set(keys) or not {"type", "properties", "items"} & set(keys):
                return self._leaf(node)
            case _:
                types = node["type"] if isinstance(node.get("type"), list) else [node.get("type", _kind(node))]
                return self._rules.add(" | ".join(self._typed(name, node) for name in cast("list[str]", types)))

    def _typed(self, kind: str, node: Mapping[str, Any]) -> str:
        if any(key in node for key in _LIMITS.get(kind, ())):
            return self._leaf({**node, "type": kind})
        match kind:
            case "boolean":
                return f'("{self._notation.true}" | "{self._notation.false}")'
            case "null":
                return f'"{self._notation.null}"'
            case "integer":
                return _INTEGER
            case "number":
                return _NUMBER
            case "array":
                return self._array(node)
            case "object":
                return self._object([node])
            case _:
                return self._leaf({"type": kind})

    def _array(self, node: Mapping[str, Any]) -> str:
        high = node.get("maxItems")
        low, high = int(node.get("minItems", 0)), None if high is None else int(high)
        if high is not None and high < low:
            raise Unsatisfiable(f"A schema asks for at least {low} items and at most {high}.")
        if max(low, high or 0) > _MAX_FIELDS:
            return self._leaf({**node, "type": "array"})
        items = node.get("items", True)
        if items is False or high == 0:
            if low:
                raise Unsatisfiable(f"A schema asks for at least {low} items and allows none.")
            return '"[]"'
        return f'"[" {_repeated(self.value(items), low, high)} "]"'

    def _any_of(self, options: Sequence[Callable[[], str]]) -> str:
        """Return the rule of the values that one of several rules allows; those that no value fits are left out."""
        rules: list[str] = []
        refusal = Unsatisfiable("A schema offers alternatives of which none can be written.")
        for option in options:
            try:
                rules.append(option())
            except Unsatisfiable as error:
                refusal = error
        if not rules:
            raise refusal
        return self._rules.add(" | ".join(rules))

    def _merged(self, way: Way) -> str:
        """Return the rule of the objects that fit several schemas at once; the same schemas share one rule."""
        return self._shared(json.dumps(way), lambda: self._object(way))

    def _object(self, parts: Sequence[Node]) -> str:
        if not any(part.get("properties") or part.get("required") for part in parts):
            return self._map(parts)
        fields = ObjectFields.of(self._schema, parts)
        return f'"{{" {self.fields(fields, lambda name: f"{quoted(name)}: ")} "}}"'

    def object_fields(self, node: Node) -> ObjectFields:
        """Return the fields of the object that a schema describes.

        Raises:
            InvalidRequest: When a required field cannot be written.
        """
        ways = ways_of(self._schema, node, _CONSTRAINING)
        return ObjectFields.of(self._schema, ways[0] if ways and len(ways) == 1 else [node])

    def fields(self, fields: ObjectFields, begun: Callable[[str], str]) -> str:
        """Return the rule of an object's fields between its brackets; a field that no value fits is left out.

        Args:
            fields: The fields.
            begun: From a field's name to the text before its value.

        Raises:
            InvalidRequest: When no number of the fields is allowed, or no value fits a required one.
        """
        items: list[tuple[str, bool]] = []
        for name, schema in fields.schemas.items():
            try:
                items.append((f"{quoted(begun(name))} {self.value(schema)}", name in fields.required))
            except Unsatisfiable:
                if name in fields.required:
                    raise
        most = len(items) if fields.most is None else fields.most
        if fields.least <= len(fields.required) and most >= len(items):
            return self.listed(items)
        return self._counted(items, fields.least, min(most, len(items)))

    def _map(self, parts: Sequence[Node]) -> str:
        """Return the rule of an object whose fields' names are not known; equal names are left to the final check."""
        low, high = count_of(parts)
        if high is not None and high < low:
            raise Unsatisfiable(f"A schema asks for at least {low} fields and at most {high}.")
        if any(part.get("patternProperties") for part in parts):
            return self._leaf({**(parts[0] if len(parts) == 1 else {"allOf": list(parts)}), "type": "object"})
        others = all_of([part.get("additionalProperties", True) for part in parts])
        if others is False or high == 0:
            if low:
                raise Unsatisfiable(f"A schema asks for at least {low} fields and allows none.")
            return '"{}"'
        names = all_of([part.get("propertyNames", True) for part in parts])
        try:
            field = f'{self._name(names)} ": " {self.value(others)}'
        except Unsatisfiable:
            if low:
                raise
            return '"{}"'
        return f'"{{" {_repeated(field, low, high)} "}}"'

    def _counted(self, items: Sequence[tuple[str, bool]], low: int, high: int) -> str:
        """Return the rule of `low` to `high` of the items in their order; of each, whether it must be there.

        Raises:
            InvalidRequest: When there are none.
        """
        rules: dict[int, str] = dict.fromkeys(range(low, high + 1), '""')  # of the rest, by items before it
        for place in range(len(items) - 1, -1, -1):
            item, needed = items[place]
            before: dict[int, str] = {}
            for count in range(min(place, high) + 1):
                comma = '", " ' if count else ""
                taken = [f"{comma}{item} {rules[count + 1]}"] if count + 1 in rules else []
                left_out = [rules[count]] if count in rules and not needed else []
                if taken or left_out:
                    before[count] = self._rules.add(" | ".join([*taken, *left_out]))
            rules = before
        if 0 not in rules:
            raise Unsatisfiable(
                f"A schema asks for {low} to {high} fields, which the {len(items)} that can be written do not allow; "
                "declare the fields, or change minProperties and maxProperties."
            )
        return rules[0]

    def _name(self, schema: object) -> str:
        """Return the rule of the names that fit a schema: strings in either notation.

        Raises:
            InvalidRequest: When no string fits.
        """
        node = cast("Mapping[str, Any]", schema) if isinstance(schema, Mapping) else {}
        types = node.get("type", "string")
        if schema is False or "string" not in ([types] if isinstance(types, str) else types):
            raise Unsatisfiable("A schema allows no name of a field where one is needed.")
        of_string = {**node, "type": "string"}
        return self._leaf(of_string) if _COMBINING & set(node) else self.value(of_string)

    def _reference(self, reference: str) -> str:
        return self._shared(reference, lambda: self.value(self._schema.resolve(reference)))

    def _shared(self, key: str, body: Callable[[], str]) -> str:
        """Return the rule that a key stands for, which may refer to itself; its body is made at its first use."""
        if key not in self._references:
            known = dict(self._references)
            name = self._references[key] = self._rules.reserve()
            try:
                self._rules.fill(name, body())
            except Unsatisfiable:  # what was made meanwhile may refer to this rule
                self._rules.fill(name, '""')
                self._references = known
                raise
        return self._references[key]

    def _choices(self, node: Mapping[str, Any]) -> str:
        values = cast("list[Any]", node["enum"] if "enum" in node else [node["const"]])
        if len(_CONSTRAINING & set(node)) > 1:
            whole = JsonSchema(node)
            values = [value for value in values if not fit(whole, value)[1]]
        if not values:
            raise Unsatisfiable("A schema's enum holds no value that fits the rest of it.")
        return self._rules.add(" | ".join(quoted(self._notation.text(value)) for value in values))

    def _anything(self) -> str:
        return self._references[""] if "" in self._references else self._make_anything()

    def _make_anything(self) -> str:
        name = self._references[""] = self._rules.reserve()
        text = self._leaf({"type": "string"})
        constants = " | ".join(f'"{word}"' for word in (self._notation.true, self._notation.false, self._notation.null))
        self._rules.fill(
            name,
            f'{text} | {_NUMBER} | {constants} | "[" ({name} (", " {name})*)? "]" '
            f'| "{{" ({text} ": " {name} (", " {text} ": " {name})*)? "}}"',
        )
        return name

    def _leaf(self, node: Mapping[str, Any]) -> str:
        """Return the rule of what is the same in both notations, or too intricate for one of our own."""
        if node.get("format") in FORMATS and "pattern" not in node:
            node = {**{key: node[key] for key in node if key != "format"}, "pattern": FORMATS[node["format"]]}
        definitions = {key: self._schema.root[key] for key in ("$defs", "definitions") if key in self._schema.root}
        needed = definitions if "$ref" in json.dumps(node) else {}
        return self._rules.add("%json " + json.dumps({**needed, **node, "x-guidance": dict(JSON_STYLE)}))


def quoted(text: str) -> str:
    """Return a text in double quotes, as JSON, Python and Lark write it."""
    return json.dumps(text, ensure_ascii=False)


def _repeated(item: str, low: int, high: int | None) -> str:
    """Return the rule of `low` to `high` items, of which there may be at least one, separated by commas."""
    least, most = max(low - 1, 0), "" if high is None else high - 1
    some = item if most == 0 else f'{item} (", " {item}){{{least},{most}}}'
    return some if low else f"({some})?"


def _kind(node: Mapping[str, Any]) -> str:
    return "object" if "properties" in node else "array"
