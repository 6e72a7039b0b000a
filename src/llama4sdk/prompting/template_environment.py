"""The Jinja environment of chat templates: a sandbox with the filters, functions and tags that transformers gives them.

Templates on the hub are written for transformers' renderer, so names, arguments and defaults are its own, positional
ones included (`transformers.utils.chat_template_utils`).
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from llama4sdk.errors import BackendMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2.ext import Extension
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_WRITTEN = 100_000_000  # characters: twice the longest context of a model
_MOST_BITS = 4096
_MOST_INDENT = 64  # characters
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def template_environment(breaker: str) -> ImmutableSandboxedEnvironment:
    """Return the environment.

    Args:
        breaker: The character that breaks up what looks like a special token, which no filter may change.

    Raises:
        BackendMissing: Jinja2 is not installed.
    """
    try:
        from jinja2.ext import loopcontrols
    except ImportError as error:
        raise BackendMissing(
            "A checkpoint's own chat template needs Jinja2. Install it with: pip install 'llama4sdk[templates]'"
        ) from error
    environment = _sandbox()(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()])
    filters = cast("dict[str, Callable[..., object]]", environment.filters)
    filters["tojson"] = _to_json(breaker)
    known = cast("dict[str, Callable[..., object]]", environment.globals)
    known.pop("lipsum")  # pages of text, in no time
    known["raise_exception"] = _raise
    known["strftime_now"] = _now
    return environment


def _sandbox() -> type[ImmutableSandboxedEnvironment]:
    """Return Jinja's sandbox, in which a product is no longer than a prompt may be."""
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            if _is_long(operator, left, right):
                raise SecurityError(f"{operator} gives too long a value")
            return super().call_binop(context, operator, left, right)

    return Sandbox


def _is_long(operator: str, left: Any, right: Any) -> bool:
    """Tell whether a product is longer than a prompt, or a power has more digits than any number in one."""
    if operator == "**":
        return isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MOST_BITS
    text, times = (right, left) if isinstance(left, int) else (left, right)
    return isinstance(text, str | list | tuple) and isinstance(times, int) and len(text) * times > MOST_WRITTEN


def _generation_tag() -> type[Extension]:
    """Return the tag `{% generation %}`, which marks the assistant's words for training; its body renders as it is."""
    from jinja2.ext import Extension
    from jinja2.nodes import Scope

    class GenerationTag(Extension):
        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Parser) -> Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # A scope of its own, as the body has where it is called.
            return Scope(body, lineno=line)

    return GenerationTag


def _to_json(breaker: str) -> Callable[..., str]:
    def escaped(character: re.Match[str]) -> str:
        return character[0] if character[0] == breaker else json.dumps(character[0])[1:-1]

    def to_json(
        value: object,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        if isinstance(indent, int):
            indent = min(indent, _MOST_INDENT)
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
        return _NOT_ASCII.sub(escaped, text) if ensure_ascii else text

    return to_json


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
