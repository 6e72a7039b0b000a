"""Values of arguments in Python's or JSON's notation, read as they arrive and written on as JSON.

One grammar serves both notations, because models mix them: `True` and `true`, `None` and `null`, either
kind of quote. Nothing is ever evaluated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from llama4sdk.surrogates import mended
from llama4sdk.tools.source import NotACallError, Reading, Source

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Write: TypeAlias = Callable[[str], None]

MAX_DEPTH: Final = 64
_MAX_NUMBER = 400  # characters; the largest double has 309 digits
_CONSTANTS: Mapping[str, bool | None] = {
    "True": True,
    "true": True,
    "False": False,
    "false": False,
    "None": None,
    "null": None,
}
_ESCAPES: Mapping[str, str] = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0",
    "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": "",
}  # fmt: skip
_CODES: Mapping[str, int] = {"x": 2, "u": 4, "U": 8}
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d*)")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_PLAIN: Mapping[str, re.Pattern[str]] = {'"': re.compile(r'[^"\\]+'), "'": re.compile(r"[^'\\]+")}
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_value(source: Source, write: Write, depth: int = 0) -> Reading[Value]:
    """Read one value, and write it as JSON while it arrives.

    Raises:
        NotACallError: When the text is no value, or one nested deeper than 64 levels.
    """
    if depth > MAX_DEPTH:
        raise NotACallError
    char = yield from source.skip_space()
    match char:
        case '"' | "'":
            return (yield from read_string(source, write))
        case "[":
            return (yield from _sequence(source, write, depth, "]"))
        case "(":
            return (yield from _sequence(source, write, depth, ")"))
        case "{":
            return (yield from read_object(source, write, depth))
        case _:
            value = yield from (_constant(source) if char.isalpha() else _number(source))
            write(json.dumps(value))
            return value


def read_object(source: Source, write: Write, depth: int = 0) -> Reading[dict[str, Value]]:
    """Read an object: a dict in braces whose keys are strings."""
    members: dict[str, Value] = {}
    source.pos += 1
    write("{")
    while (yield from source.skip_space()) != "}":
        if members:
            write(", ")
        key = yield from _key(source, write)
        write(": ")
        members[key] = yield from read_value(source, write, depth + 1)
        yield from _comma(source, "}")
    source.pos += 1
    write("}")
    return members


def read_string(source: Source, write: Write) -> Reading[str]:
    """Read a string in quotes of either kind, tripled ones too."""
    quote = source.text[source.pos]
    source.pos += 1
    ending = quote
    if (yield from source.peek()) == quote:
        source.pos += 1
        if (yield from source.peek()) != quote:
            write('""')
            return ""
        source.pos += 1
        ending = quote * 3
    write('"')
    parts: list[str] = []
    while True:
        part, ended = yield from _stretch(source, quote, ending)
        if part:
            parts.append(part)
            write(json.dumps(part, ensure_ascii=bool(_SURROGATE.search(part)))[1:-1])
        if ended:
            break
    write('"')
    return mended("".join(parts))


def read_name(source: Source) -> Reading[str]:
    """Read the name of a keyword argument."""
    read = ""
    while (char := (yield from source.peek())) and (char.isalnum() or char in "_-.$"):
        read += char
        source.pos += 1
        if len(read) > 256:
            raise NotACallError
    if not read or read[0].isdigit():
        raise NotACallError
    return read


def _sequence(source: Source, write: Write, depth: int, closing: str) -> Reading[list[Value]]:
    members: list[Value] = []
    source.pos += 1
    write("[")
    while (yield from source.skip_space()) != closing:
        if members:
            write(", ")
        members.append((yield from read_value(source, write, depth + 1)))
        commas = yield from _comma(source, closing)
        if closing == ")" and len(members) == 1 and not commas:  # brackets around a value, no tuple
            raise NotACallError
    source.pos += 1
    write("]")
    return members


def _comma(source: Source, closing: str) -> Reading[bool]:
    """Read the comma after an item, which the last one may have too, and return whether it stood there."""
    char = yield from source.skip_space()
    if char == ",":
        source.pos += 1
    elif char != closing:
        raise NotACallError
    return char == ","


def _key(source: Source, write: Write) -> Reading[str]:
    if (yield from source.skip_space()) not in ('"', "'"):
        raise NotACallError
    key = yield from read_string(source, write)
    yield from source.expect(":")
    return key


def _stretch(source: Source, quote: str, ending: str) -> Reading[tuple[str, bool]]:
    """Read the next characters of a string; the last stretch is followed by the quotes that end it."""
    char = yield from source.peek()
    if not char:
        raise NotACallError
    if char == "\\":
        source.pos += 1
        return (yield from _escaped(source)), False
    if char == quote:
        return (yield from _closing(source, quote, ending))
    plain = _PLAIN[quote].match(source.text, source.pos, source.room())
    if plain is None:
        raise NotACallError
    source.pos = plain.end()
    return plain[0], False


def _closing(source: Source, quote: str, ending: str) -> Reading[tuple[str, bool]]:
    quotes = ""
    while quotes != ending:
        if (yield from source.peek()) != quote:
            return quotes, False  # a lone quote inside a tripled string
        quotes += quote
        source.pos += 1
    return "", True


def _escaped(source: Source) -> Reading[str]:
    char = yield from source.peek()
    if not char:
        raise NotACallError
    source.pos += 1
    if char in _CODES:
        return (yield from _code(source, _CODES[char]))
    return _ESCAPES.get(char, f"\\{char}")  # an unknown escape stays as it is, as in Python


def _code(source: Source, digits: int) -> Reading[str]:
    read = ""
    while len(read) < digits:
        char = yield from source.peek()
        if not char or char not in "0123456789abcdefABCDEF":
            raise NotACallError
        read += char
        source.pos += 1
    code = int(read, 16)
    if code > 0x10FFFF:
        raise NotACallError
    return chr(code)


def _constant(source: Source) -> Reading[bool | None]:
    read = ""
    while (char := (yield from source.peek())).isalnum() or char == "_":
        read += char
        if not any(name.startswith(read) for name in _CONSTANTS):
            raise NotACallError
        source.pos += 1
    if read not in _CONSTANTS:
        raise NotACallError
    return _CONSTANTS[read]


def _number(source: Source) -> Reading[float]:
    read = ""
    while (char := (yield from source.peek())) and char in "0123456789+-.eE":
        read += char
        source.pos += 1
        if len(read) > _MAX_NUMBER:
            raise NotACallError
    if _INTEGER.fullmatch(read):
        return int(read)
    if not _NUMBER.fullmatch(read) or (read.lstrip("+-").isdigit()):  # such as 007
        raise NotACallError
    value = float(read)
    if not math.isfinite(value):
        raise NotACallError
    return value
