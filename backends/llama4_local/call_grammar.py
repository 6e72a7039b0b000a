"""The grammar of tool calls as Llama 4 writes them, `[f(a=1), g(b="x")]`, built from the declared tools.

Written in llguidance's dialect of Lark. Arguments come in the order in which they are declared, optional
ones may be left out; values are in Python's notation, as the model is trained to write them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from llama4sdk.errors import InvalidRequest
from llama4sdk.output import JsonSchema
from llama4sdk.request import ToolSpec

# As `json.dumps` writes, which is what models are shown in prompts and the bundled one is trained on.
JSON_STYLE: Mapping[str, object] = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "lenient": True,
}
_NAME = re.compile(r"[^\W\d][\w.$-]{0,255}")
_INTEGER: Final = "/-?(0|[1-9][0-9]{0,17})/"
# Two digits of exponent, so that the number is finite.
_NUMBER: Final = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][-+]?[0-9]{1,2})?/"
_MAX_RULES: Final = 20_000
_MAX_DEPTH: Final = 60
_MAX_FIELDS: Final = 1000
_LIMITS: Mapping[str, tuple[str, ...]] = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("prefixItems", "minItems", "maxItems", "contains"),
    "object": ("patternProperties", "minProperties", "maxProperties", "propertyNames"),
}


def calls_grammar(tools: Iterable[ToolSpec]) -> str:
    """Return the rules of a list of calls; the list itself is the rule `calls`.

    Raises:
        InvalidRequest: When the tools cannot be put into a grammar of reasonable size.
    """
    rules = _Rules()
    names = [rules.add(_Tool(tool, rules).call()) for tool in tools]
    rules.add('"[" call (", " call)* "]"', "calls")
    rules.add(" | ".join(names), "call")
    return rules.text


def json_rule(schema: object) -> str:
    """Return a schema as part of a Lark rule."""
    fields = cast("Mapping[str, Any]", schema) if isinstance(schema, Mapping) else ({} if schema else {"enum": []})
    return "%json " + json.dumps({**fields, "x-guidance": dict(JSON_STYLE)})


class _Rules:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, body: str, name: str | None = None) -> str:
        name = name or f"r{len(self._lines)}"
        self._lines.append(f"{name}: {body}")
        if len(self._lines) > _MAX_RULES:
            raise InvalidRequest("The tools' schemas are too large for a grammar; declare fewer or simpler ones.")
        return name

    def reserve(self) -> str:
        """Return a name for a rule that is filled in later, as those that refer to themselves are."""
        return self.add("")

    def fill(self, name: str, body: str) -> None:
        self._lines[int(name[1:])] = f"{name}: {body}"

    @property
    def text(self) -> str:
        return "\n".join(self._lines)


class _Tool:
    """One tool's rules."""

    def __init__(self, tool: ToolSpec, rules: _Rules) -> None:
        self._tool = tool
        self._rules = rules
        self._schema = JsonSchema(tool.parameters)
        self._references: dict[str, str] = {}
        self._depth = 0

    def call(self) -> str:
        """Return the rule of a whole call."""
        properties = cast("Mapping[str, Any]", self._tool.parameters.get("properties", {}))
        required = set(cast("Sequence[str]", self._tool.parameters.get("required", ())))
        arguments: list[tuple[str, bool]] = []
        for name, schema in properties.items():
            if _NAME.fullmatch(name):
                arguments.append((f"{_quoted(name + '=')} {self._value(schema)}", name in required))
        missing = required - {name for name in properties if _NAME.fullmatch(name)}
        if missing:
            raise InvalidRequest(
                f"The tool {self._tool.name} needs {min(missing)!r}, which cannot be written as an argument."
            )
        return f'{_quoted(self._tool.name + "(")} {self._listed(arguments)} ")"'

    def _listed(self, items: Sequence[tuple[str, bool]]) -> str:
        """Return the rule of items in their order, separated by commas, optional ones left out or not."""
        if len(items) > _MAX_FIELDS:
            raise InvalidRequest(f"The tool {self._tool.name} takes more than {_MAX_FIELDS} arguments or fields.")
        first, later = '""', '""'
        for item, needed in reversed(items):
            after = self._rules.add(later)
            first = f"{item} {after}" if needed else f"{item} {after} | {self._rules.add(first)}"
            later = f'", " {item} {after}' if needed else f'(", " {item})? {after}'
        return self._rules.add(first)

    def _value(self, schema: object) -> str:
        """Return the rule of a value in Python's notation."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise InvalidRequest(f"The schema of the tool {self._tool.name} is nested too deep for a grammar.")
        rule = self._rule(schema)
        self._depth -= 1
        return rule

    def _rule(self, schema: object) -> str:
        if not isinstance(schema, Mapping) or not schema:
            return self._anything()
        node = cast("Mapping[str, Any]", schema)
        if "$ref" in node:
            return self._reference(str(node["$ref"]))
        if "enum" in node or "const" in node:
            return self._choices(cast("list[Any]", node["enum"] if "enum" in node else [node["const"]]))
        for key in ("anyOf", "oneOf"):
            if key in node:
                return self._rules.add(" | ".join(self._value(option) for option in node[key]))
        if any(key in node for key in ("allOf", "not", "if")):
            return self._leaf(node)
        types = cast(
            "list[str]", node["type"] if isinstance(node.get("type"), list) else [node.get("type", _kind(node))]
        )
        return self._rules.add(" | ".join(self._typed(name, node) for name in types))

    def _typed(self, kind: str, node: Mapping[str, Any]) -> str:
        if any(key in node for key in _LIMITS.get(kind, ())):
            return self._leaf({**node, "type": kind})
        match kind:
            case "boolean":
                return '("True" | "False")'
            case "null":
                return '"None"'
            case "integer":
                return _INTEGER
            case "number":
                return _NUMBER
            case "array":
                item = self._value(node.get("items", {}))
                return f'"[" ({item} (", " {item})*)? "]"'
            case "object":
                return self._object(node)
            case _:
                return self._leaf({"type": kind})

    def _object(self, node: Mapping[str, Any]) -> str:
        properties = cast("Mapping[str, Any]", node.get("properties", {}))
        required = set(cast("Sequence[str]", node.get("required", ())))
        if required - set(properties):
            return self._leaf(node)
        if not properties:
            others = node.get("additionalProperties", True)
            if others is False:
                return '"{}"'
            field = f'{self._leaf({"type": "string"})} ": " {self._value(others)}'
            return f'"{{" ({field} (", " {field})*)? "}}"'
        items = [
            (f"{_quoted(json.dumps(name) + ': ')} {self._value(schema)}", name in required)
            for name, schema in properties.items()
        ]
        return f'"{{" {self._listed(items)} "}}"'

    def _reference(self, reference: str) -> str:
        if reference not in self._references:
            name = self._references[reference] = self._rules.reserve()
            self._rules.fill(name, self._value(self._schema.resolve(reference)))
        return self._references[reference]

    def _choices(self, values: Sequence[Any]) -> str:
        return self._rules.add(" | ".join(_quoted(_python(value)) for value in values))

    def _anything(self) -> str:
        return self._reference("") if "" in self._references else self._make_anything()

    def _make_anything(self) -> str:
        name = self._references[""] = self._rules.reserve()
        text = self._leaf({"type": "string"})
        self._rules.fill(
            name,
            f'{text} | {_NUMBER} | "True" | "False" | "None" | "[" ({name} (", " {name})*)? "]" '
            f'| "{{" ({text} ": " {name} (", " {text} ": " {name})*)? "}}"',
        )
        return name

    def _leaf(self, node: Mapping[str, Any]) -> str:
        """Return the rule of what is the same in both notations, or too intricate for one of our own."""
        definitions = {key: self._schema.root[key] for key in ("$defs", "definitions") if key in self._schema.root}
        return self._rules.add(json_rule({**(definitions if "$ref" in json.dumps(node) else {}), **node}))


def _kind(node: Mapping[str, Any]) -> str:
    return "object" if "properties" in node else "array" if "items" in node else "string"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _python(value: Any) -> str:
    match value:
        case None | bool():
            return str(value)
        case list():
            return f"[{', '.join(map(_python, cast('list[Any]', value)))}]"
        case dict():
            fields = cast("dict[str, Any]", value).items()
            return "{" + ", ".join(f"{_quoted(name)}: {_python(item)}" for name, item in fields) + "}"
        case _:
            return json.dumps(value, ensure_ascii=False)
