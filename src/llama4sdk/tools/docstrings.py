"""Descriptions of a function and its parameters from its docstring, in Google's, NumPy's or reST's style."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Described:
    """The words of a docstring.

    Args:
        text: What the function does.
        parameters: What each parameter means, by its name.
    """

    text: str = ""
    parameters: dict[str, str] = field(default_factory=dict[str, str])


def describe(docstring: str | None) -> Described:
    """Read a docstring; one in no known style is taken as it is."""
    if not docstring or not docstring.strip():
        return Described()
    # Imported when the first tool is declared: most applications declare none.
    from docstring_parser import ParseError, parse

    try:
        parsed = parse(docstring)
    except ParseError:
        return Described(inspect.cleandoc(docstring))
    parts = [part.strip() for part in (parsed.short_description, parsed.long_description) if part]
    return Described(
        "\n\n".join(parts),
        {
            param.arg_name.lstrip("*"): " ".join(param.description.split())
            for param in parsed.params
            if param.description
        },
    )
