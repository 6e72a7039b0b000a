"""The grammar of tool calls as Llama 4 writes them, `[f(a=1), g(b="x")]`, built from the declared tools.

Arguments come in the order in which they are declared, optional ones may be left out; values are in Python's
notation, as the model is trained to write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from llama4_local.value_grammar import PYTHON, Rules, Values, quoted
from llama4sdk.errors import InvalidRequest
from llama4sdk.request import ToolSpec

_NAME = re.compile(r"[^\W\d][\w.$-]{0,255}")


def add_calls(rules: Rules, tools: Iterable[ToolSpec]) -> None:
    """Add the rules of a list of calls; the list itself is the rule `calls`.

    Raises:
        InvalidRequest: When the tools cannot be put into a grammar of reasonable size.
    """
    names = [rules.add(_call(tool, rules)) for tool in tools]
    rules.add('"[" call (", " call)* "]"', "calls")
    rules.add(" | ".join(names), "call")


def _call(tool: ToolSpec, rules: Rules) -> str:
    values = Values(tool.parameters, rules, PYTHON)
    properties = cast("Mapping[str, Any]", tool.parameters.get("properties", {}))
    required = set(cast("Sequence[str]", tool.parameters.get("required", ())))
    writable = [name for name, schema in properties.items() if _NAME.fullmatch(name) and schema is not False]
    missing = required - set(writable)
    if missing:
        raise InvalidRequest(f"The tool {tool.name} needs {min(missing)!r}, which cannot be written as an argument.")
    arguments = [(f"{quoted(name + '=')} {values.value(properties[name])}", name in required) for name in writable]
    return f'{quoted(tool.name + "(")} {values.listed(arguments)} ")"'
