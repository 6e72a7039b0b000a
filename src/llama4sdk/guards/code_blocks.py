"""Fenced code in a text, and code in the arguments of tool calls: pure."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

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
    Language("python", ".py"): "python py ipython pycon python-repl",
    Language("javascript", ".js"): "javascript js node jsx mjs cjs ts typescript tsx ecmascript",
    Language("java", ".java"): "java",
    Language("c", ".c"): "c h",
    Language("cpp", ".cpp"): "cpp c++ cc cxx hpp hh h++",
    Language("csharp", ".cs"): "csharp cs c# csx",
    Language("php", ".php"): "php",
    Language("ruby", ".rb"): "ruby rb",
    Language("rust", ".rs"): "rust rs",
    Language("kotlin", ".kt"): "kotlin kt kts",
    Language("swift", ".swift"): "swift",
    Language("objective_c", ".m"): "objectivec objective-c objc",
    Language("xml", ".xml"): "xml",
}
LANGUAGES: Final = {name: language for language, names in _NAMES.items() for name in names.split()}
# Labels of what is neither code for a scanner nor Python under another name.
_OTHERS: Final = frozenset(
    "bash sh shell zsh console powershell json jsonc jsonl yaml yml toml ini html css scss sql go golang diff csv r "
    "dockerfile makefile latex tex mermaid graphql lua perl scala haskell elixir nginx".split()
)
_MARKDOWN: Final = ("markdown", "md", "mdx")
_BEFORE: Final = r"(?:[ \t]|>|[-*+][ \t]|[0-9]{1,9}[.)][ \t])*"  # quotes and items of lists, in which a fence may stand
_OPENING: Final = re.compile(
    rf"^(?P<before>{_BEFORE})(?:(?P<ticks>`{{3,}})(?P<label>[^\n`]*)|(?P<waves>~{{3,}})(?P<other>[^\n]*))(?:\n|$)",
    re.MULTILINE,
)
_WORD: Final = re.compile(r"[A-Za-z][^\s,:;{}=\"'`(\[]*")
_ODD_ESCAPE: Final = re.compile(r"\\(?![\n\\'\"abfnrtvxNuU0-7])")  # of which the parser warns
_INDENTED: Final = ("    ", "\t")
_PYTHON: Final = LANGUAGES["python"]


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
    """Return the blocks of known languages, in order; a fence that is not closed reaches to the end.

    In a block of another label, or none, further fences are looked for; without one, it is Python where it parses as
    such and calls or imports something. So is an indented block.
    """
    return _fenced(text, indented=True)


def has_blocks(text: str) -> bool:
    """Return whether a text may hold blocks of code, at little cost."""
    return "```" in text or "~~~" in text or any(f"\n{indent}" in text for indent in _INDENTED)


def _fenced(text: str, *, indented: bool = False) -> list[CodeBlock]:
    blocks: list[CodeBlock] = []
    place = 0
    while opening := _OPENING.search(text, place):
        fence = opening["ticks"] or opening["waves"]
        closing = re.compile(rf"^[ \t>]*{re.escape(fence[0])}{{{len(fence)},}}[ \t\r]*$", re.MULTILINE)
        end = closing.search(text, opening.end())
        code = _unquoted(text[opening.end() : end.start() if end else len(text)], opening["before"].count(">"))
        if indented:
            blocks += _indented(text[place : opening.start()], place, closed=True)
        blocks += _blocks_in(code, opening["label"] or opening["other"] or "", opening.start(), closed=end is not None)
        if end is None:
            return blocks
        place = end.end()
    return [*blocks, *(_indented(text[place:], place, closed=False) if indented else ())]


def _indented(text: str, offset: int, *, closed: bool) -> Iterator[CodeBlock]:
    """Yield the indented blocks that are Python; one at the end of a text that may go on is not closed."""
    lines: list[str] = []
    start, begins = offset, True  # a block begins behind an empty line
    for line in text.splitlines(keepends=True):
        if not line.strip():
            begins = True
            lines += [line] if lines else []
        elif line.startswith(_INDENTED) and (lines or begins):
            start = start if lines else offset
            lines.append(line)
        else:
            yield from _python_in("".join(lines), start, closed=True)
            lines, begins = [], False
        offset += len(line)
    if lines:
        yield from _python_in("".join(lines), start, closed=closed)


def _python_in(code: str, start: int, *, closed: bool) -> list[CodeBlock]:
    if code and _is_python(code):
        return [CodeBlock(_PYTHON, _plain(code, _PYTHON), start, closed)]
    return [] if closed else [CodeBlock(_PYTHON, "", start, closed=False)]  # what it is shows at its end


def code_in_call(call: ToolCall, arguments: Collection[str]) -> list[CodeBlock]:
    """Return the code in the arguments of a call, at any depth.

    Under the names of arguments that hold code, it is of the language that `language` beside them names, else Python;
    under any other, fenced code, or what parses as Python and calls or imports something.
    """
    return list(_code_in(call.arguments, frozenset(arguments), _PYTHON, named=False))


def language_of(label: str) -> Language | None:
    """Return the language of a fence's label, such as `python`, `{.py}`, `c++17`, `rust,no_run` or `main.py`."""
    for word in _WORD.findall(label.lower()):
        name = word.removeprefix("language-").removeprefix("lang-")
        if name in ("language", "lang"):
            continue
        names = (name, name.rstrip("0123456789.-_"), name.rpartition(".")[2])
        return next((LANGUAGES[one] for one in names if one in LANGUAGES), None)
    return None


def _blocks_in(code: str, label: str, start: int, *, closed: bool) -> list[CodeBlock]:
    language = language_of(label)
    if language is not None:
        if not code.strip():
            return [] if closed else [CodeBlock(language, "", start, closed=False)]
        return [CodeBlock(language, _plain(code, language), start, closed)]
    label = next(iter(_WORD.findall(label.lower())), "")
    # Models close a fence within a Markdown block with the one of the block; elsewhere such a fence is text.
    whole = closed and label not in _MARKDOWN
    if inner := [block for block in _fenced(code) if block.closed or not whole]:
        return [replace(block, start=start, closed=closed) for block in inner]
    if label in _OTHERS:
        return []
    return _python_in(code, start, closed=closed)


def _code_in(value: object, names: Collection[str], language: Language, *, named: bool) -> Iterator[CodeBlock]:
    match value:
        case str() if value.strip():
            if named and not _OPENING.match(value.lstrip()):
                yield CodeBlock(language, _plain(value, language))
            elif _is_python(value):
                yield CodeBlock(_PYTHON, _plain(value, _PYTHON))
            else:
                yield from (block for block in code_blocks(value) if block.code)
        case dict():
            fields = cast("dict[str, object]", value)
            told = [fields[name] for name in ("language", "lang") if isinstance(fields.get(name), str)]
            language = (language_of(str(told[0])) if told else None) or language
            for name, member in fields.items():
                yield from _code_in(member, names, language, named=named or name.lower() in names)
        case list():
            for member in cast("list[object]", value):
                yield from _code_in(member, names, language, named=named)
        case _:
            pass


def _is_python(code: str) -> bool:
    """Return whether a text parses as Python and calls or imports something, as words and data do not."""
    try:
        tree = ast.parse(_ODD_ESCAPE.sub(r"\\\\", _plain(code, _PYTHON)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.Call | ast.Import | ast.ImportFrom) for node in ast.walk(tree))


def _unquoted(code: str, depth: int) -> str:
    """Return code without the marks of the quotes that it stands in."""
    return re.sub(rf"^(?:[ \t]*>){{1,{depth}}} ?", "", code, flags=re.MULTILINE) if depth else code


def _plain(code: str, language: Language) -> str:
    """Return code without the indentation of its block and the prompts of an interactive session."""
    lines = [line.rstrip("\r") for line in textwrap.dedent(code).split("\n")]
    if language.name == "python" and code.lstrip().startswith(">>>"):
        lines = [line[4:] for line in lines if line.startswith((">>> ", "... "))]
    if language.name == "php" and not any("<?" in line for line in lines):
        lines.insert(0, "<?php")  # without which all of it is text
    return "\n".join(lines).rstrip("\n") + "\n"
