"""Fenced code in a text, and code in the arguments of tool calls: pure."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from llama4sdk.messages import ToolCall


@dataclass(frozen=True, slots=True)
class Language:
    """A language that scanners read.

    Args:
        name: Its name, as scanners' rules have it.
        suffix: Suffix of its files.
    """

    name: str
    suffix: str


_NAMES: Final = {
    Language("python", ".py"): "python py python3 ipython",
    Language("javascript", ".js"): "javascript js node jsx mjs ts typescript tsx",
    Language("java", ".java"): "java",
    Language("c", ".c"): "c h",
    Language("cpp", ".cpp"): "cpp c++ cc cxx hpp",
    Language("csharp", ".cs"): "csharp cs c#",
    Language("php", ".php"): "php",
    Language("ruby", ".rb"): "ruby rb",
    Language("rust", ".rs"): "rust rs",
    Language("kotlin", ".kt"): "kotlin kt",
    Language("swift", ".swift"): "swift",
    Language("objective_c", ".m"): "objectivec objective-c objc",
    Language("xml", ".xml"): "xml",
}
LANGUAGES: Final = {name: language for language, names in _NAMES.items() for name in names.split()}
_OPENING: Final = re.compile(
    r"^[ \t>]*(?P<fence>`{3,}|~{3,})[ \t]*\{?\.?(?P<language>[^\s`{}]*)[^\n`]*(?:\n|$)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """One piece of code.

    Args:
        language: Its language.
        code: The code.
        start: Offset of its fence in the text.
        closed: Whether its fence is closed.
    """

    language: Language
    code: str
    start: int = 0
    closed: bool = True


def code_blocks(text: str) -> list[CodeBlock]:
    """Return the fenced blocks of known languages; a fence that is not closed reaches to the end."""
    blocks: list[CodeBlock] = []
    place = 0
    while opening := _OPENING.search(text, place):
        fence = opening["fence"]
        closing = re.compile(rf"^[ \t>]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$", re.MULTILINE)
        end = closing.search(text, opening.end())
        code = text[opening.end() : end.start() if end else len(text)]
        language = LANGUAGES.get(opening["language"].lower())
        if language is not None and code.strip():
            blocks.append(CodeBlock(language, _plain(code, language), opening.start(), end is not None))
        elif end is None and language is not None:
            blocks.append(CodeBlock(language, "", opening.start(), closed=False))
        place = end.end() if end else len(text)
        if end is None:
            break
    return blocks


def code_in_call(call: ToolCall, arguments: Collection[str]) -> list[CodeBlock]:
    """Return the code in the arguments of a call, of the language that its argument `language` names, else Python."""
    named = call.arguments.get("language")
    language = LANGUAGES.get(named.lower()) if isinstance(named, str) else None
    language = language or LANGUAGES["python"]
    given = [call.arguments.get(name) for name in arguments]
    return [CodeBlock(language, _plain(code, language)) for code in given if isinstance(code, str) and code.strip()]


def _plain(code: str, language: Language) -> str:
    """Return code without the indentation of its block and the prompts of an interactive session."""
    code = textwrap.dedent(code)
    lines = code.splitlines()
    if language.name == "python" and any(line.startswith(">>> ") for line in lines):
        lines = [line[4:] for line in lines if line.startswith((">>> ", "... "))]
    if language.name == "php" and not any("<?" in line for line in lines):
        lines.insert(0, "<?php")  # without which all of it is text
    return "\n".join(lines) + "\n"
