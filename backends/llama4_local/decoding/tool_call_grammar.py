"""The grammar of tool calls as Llama 4 writes them, `[f(a=1), g(b="x")]`, built from the declared tools.

Arguments come in the order in which they are declared, optional ones may be left out; values are in Python's
notation, as the model is trained to write them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from llama4_local.decoding.json_grammar import PYTHON, Rules, Values, quoted
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama4sdk.request import ToolSpec

_NAME = re.compile(r"[^\W\d][\w.$-]{0,255}")
_NO_BRACKETS: Final = r"/[^\[]+/"
_UP_TO_BRACKET: Final = r"[^\[]*"


def add_calls(rules: Rules, tools: Iterable[ToolSpec]) -> None:
    """Add the rules of a list of calls; the list itself is the rule `calls`.

    Raises:
        InvalidRequest: When the tools cannot be put into a grammar of reasonable size.
    """
    arguments = {tool.name: rules.add(f'{_arguments(tool, rules)} ")"') for tool in tools}
    # The bracket and the name are one word, so that a text that only begins like it can go on otherwise.
    rules.add(" | ".join(f"{quoted(f'[{name}(')} {rest}" for name, rest in arguments.items()), "first_call")
    rules.add(" | ".join(f"{quoted(f'{name}(')} {rest}" for name, rest in arguments.items()), "call")
    rules.add('first_call (", " call)* "]"', "calls")


def add_words(rules: Rules, tools: Iterable[ToolSpec]) -> None:
    """Add the rule `words`: none, or any that begin with no bracket; calls after them are whole, and end the answer."""
    bracketed = rules.add(f"/{_no_call([tool.name for tool in tools])}/")
    rules.add(f"({_NO_BRACKETS} {bracketed}* calls?)?", "words")


def _arguments(tool: ToolSpec, rules: Rules) -> str:
    values = Values(tool.parameters, rules, PYTHON)
    fields = values.object_fields(tool.parameters)
    writable = fields.only(frozenset(filter(_NAME.fullmatch, fields.schemas)))
    missing = sorted(fields.required - set(writable.schemas))
    if missing:
        raise InvalidRequest(f"The tool {tool.name} needs {missing[0]!r}, which cannot be written as an argument.")
    return values.fields(writable, lambda name: f"{name}=")


def _no_call(names: Sequence[str]) -> str:
    """Return the expression of a bracket and all up to the next one, which is not the beginning of a call.

    As long as the text could still become a call, it must go on otherwise or end.
    """
    follow: dict[str, set[str]] = {}
    for name in names:
        for place, char in enumerate(name):
            follow.setdefault(name[:place], set()).add(char)
        follow.setdefault(name, set()).add("(")
    ways = "|".join(_way(begun, chars) for begun, chars in follow.items())
    return rf"\[\s*({ways})?"


def _way(begun: str, chars: set[str]) -> str:
    """Return the expression of the beginning of a name that goes on, if at all, with none of these characters."""
    others = "".join(f"\\{char}" if char in "-.(" else char for char in sorted(chars))
    if "(" in chars or not begun:  # white space may stand before a name, and between it and its bracket
        others += r"\s"
    space = r"\s*" if "(" in chars else ""
    return rf"{re.escape(begun)}{space}([^\[{others}]{_UP_TO_BRACKET})?"
