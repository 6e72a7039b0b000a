"""The language after the ticks that open a fenced block of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llama4sdk.tools.source import NotACallError

if TYPE_CHECKING:
    from llama4sdk.tools.source import Reading, Source

FENCE: Final = "```"
_LANGUAGES: Final = frozenset({"", "json", "python", "py", "tool_call", "tool_calls", "tool_code"})


def read_fence(source: Source) -> Reading[None]:
    """Read the ticks and the language of a block that may hold calls, up to the white space behind them.

    Raises:
        NotACallError: For a block in a language that calls are not written in.
    """
    yield from source.one_of({FENCE})
    language = ""
    while (char := (yield from source.peek())) == "_" or char.isalpha():
        language += char
        source.pos += 1
        if not any(known.startswith(language) for known in _LANGUAGES):
            raise NotACallError
    if language not in _LANGUAGES or not char.isspace():
        raise NotACallError
