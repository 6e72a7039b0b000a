"""JSON in the text of an answer, whatever stands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from llama4sdk.output.json_schema import JsonSchema

Kind: TypeAlias = Literal["object", "array", "scalar"]

_MAX_ATTEMPTS: Final = 100
_END_OF_THOUGHT = "</think>"
_THOUGHT = re.compile(r"\s*<think>")  # as fine-tuned models write it
_FENCE = re.compile(r"```[A-Za-z]*[ \t]*\n(.*?)```", re.DOTALL)
_LIKE_JSON = re.compile(r"""\s*(\{\s*["'}]|\[\s*["'{\[\]\-\dtfn])""")
_ANY_OPENING = re.compile(r"[{\[]")
_BRACKET = re.compile(r"""["{}\[\]]""")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPENING: dict[Kind, str] = {"object": "{", "array": "["}


def kinds_of(schema: JsonSchema) -> frozenset[Kind]:
    """Return what kinds of value a schema asks for."""
    kinds: set[Kind] = set()
    waiting: list[object] = [schema.root]
    for _ in range(200):
        if not waiting:
            break
        node = waiting.pop()
        fields = cast("Mapping[str, Any]", node) if isinstance(node, Mapping) else {}
        if "$ref" in fields:
            waiting.append(schema.resolve(str(fields["$ref"])))
        elif "anyOf" in fields or "oneOf" in fields:
            waiting += [*fields.get("anyOf", []), *fields.get("oneOf", [])]
        else:
            kinds |= _own_kinds(fields)
    return frozenset(kinds)


def _own_kinds(fields: Mapping[str, Any]) -> set[Kind]:
    if "enum" in fields or "const" in fields:
        values = cast("list[object]", fields["enum"] if "enum" in fields else [fields["const"]])
        return {_kind_of(value) for value in values}
    if "type" not in fields:
        return {"object"} if "properties" in fields else {"object", "array", "scalar"}
    types = cast("list[str]", fields["type"] if isinstance(fields["type"], list) else [fields["type"]])
    return {"object" if name == "object" else "array" if name == "array" else "scalar" for name in types}


def _kind_of(value: object) -> Kind:
    match value:
        case dict():
            return "object"
        case list():
            return "array"
        case _:
            return "scalar"


def find_json(text: str, kinds: frozenset[Kind]) -> Iterator[str]:
    """Yield the stretches of a text that may be the answer, the most probable first.

    The whole text, then fenced blocks, then every object or list between words. Where a single value is asked for,
    plain words count as a string; not so JSON, whole or broken, where an object or a list would do as well. A
    fragment of broken JSON never counts, nor does what the model thinks between `<think>` and `</think>`.
    """
    text = text.rpartition(_END_OF_THOUGHT)[2] if _THOUGHT.match(text) else text
    whole = text.strip()
    blocks = [block.strip() for block in _FENCE.findall(text)]
    if "scalar" in kinds:
        for stretch in (whole, *blocks):
            if _is_json(stretch):
                yield stretch
            if not (kinds & {"object", "array"} and _LIKE_JSON.match(stretch)):
                yield json.dumps(stretch, ensure_ascii=False)
    openings = "".join(_OPENING[kind] for kind in sorted(kinds) if kind in _OPENING)
    for stretch in (*blocks, whole):
        if openings:
            yield from _values(stretch, openings)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _values(text: str, openings: str) -> Iterator[str]:
    decoder = json.JSONDecoder()
    place = 0
    for _ in range(_MAX_ATTEMPTS):
        match = _ANY_OPENING.search(text, place)
        if match is None:
            return
        place = match.start()
        try:
            _, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place = _end_of_broken(text, place) if _LIKE_JSON.match(text, place) else place + 1
            continue
        if text[place] in openings:
            yield text[place:end]
            place = end
        else:
            place += 1  # a value of another kind, which may hold the right one


def _end_of_broken(text: str, place: int) -> int:
    """Return where the broken value that opens at `place` closes; the end of the text where it does not."""
    depth = 0
    while match := _BRACKET.search(text, place):
        place = match.end()
        if match.group() == '"':
            string = _STRING.match(text, match.start())
            if string is None:
                return len(text)
            place = string.end()
            continue
        depth += 1 if match.group() in "{[" else -1
        if depth == 0:
            return place
    return len(text)
