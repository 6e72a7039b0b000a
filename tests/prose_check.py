"""Refuses words that make prose hard to read for strangers: `python tests/prose_check.py [FILE …]`.

Looks at docstrings and comments of Python files and at Markdown. `docs/glossary.md` has the terms to use instead.
Without files, everything in the repository is read but the sentences that nano and nano-guard are trained on.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = (
    "backends/llama4_local/nano/training/data/",
    "backends/llama4_local/nano/training/guard/data/",
    "tests/prose_check.py",
    "LICENSE",
)

_SUBJECT = r"\b(code|module|function|class|backend|engine|server|kernel|runtime|scheduler|parser|reader|cache|device)s?"
BANNED: tuple[tuple[str, str], ...] = (
    (r"\b(nobody|somebody|anybody|everybody)\b", "name the thread, caller, request or row"),
    (r"\bwhoever\b", "name the caller"),
    (r"\btakes? pains\b", "say what the code does"),
    (r"\bin peace\b", "say where it runs"),
    (r"\bpictures?\b", "image"),
    (r"\blikeliest\b", "argmax, top-1 or most probable"),
    (rf"{_SUBJECT} (says?|wants?|hears?|learns?|thinks?|believes?)\b", "returns, needs, receives, …"),
    (r"\bfor good measure\b|\bin one go\b|\ball the same\b|\bconcerns nobody\b", "plain words"),
)
# A docstring begins with the thing that it describes.
_BEGINNING = re.compile(r"(What|Who)\b")
IDENTIFIERS = re.compile(r"\b(found|wanted)\b")
_PROMPT = re.compile(
    r"[\"“'`*][^\"”'`*\n]*\bpictures?\b[^\"”'`*\n]*[\"”'`*]|^(you|nano) .*"
    r"|/pictures?[/.]|[Pp]icture \d.*|^\| (several )?pictures \|"
)


class Hit(NamedTuple):
    """A banned word."""

    path: str
    line: int
    word: str
    advice: str


def check(path: Path) -> Iterator[Hit]:
    """Yield the banned words of one file."""
    text = path.read_text(encoding="utf-8")
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    prose = _python(text) if path.suffix == ".py" else _markdown(text)
    for line, words in prose:
        yield from _hits(name, line, words)
    if path.suffix == ".py" and not name.startswith("tests"):
        yield from _identifiers(name, text)
        yield from _beginnings(name, text)


def _hits(name: str, line: int, words: str) -> Iterator[Hit]:
    for pattern, advice in BANNED:
        for match in re.finditer(pattern, words, re.IGNORECASE):
            if advice == "image" and any(
                quote.start() <= match.start() < quote.end() for quote in _PROMPT.finditer(words)
            ):
                continue  # a sentence of the dialog with nano
            yield Hit(name, line, match.group(), advice)


def _docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yield the first line's number and the text of every docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and ast.get_docstring(node):
                yield first.lineno, str(first.value.value)


def _python(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines of docstrings and comments."""
    for line, docstring in _docstrings(text):
        yield from enumerate(docstring.split("\n"), start=line)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines outside code blocks."""
    code = False
    for number, line in enumerate(text.split("\n"), start=1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


def _identifiers(name: str, text: str) -> Iterator[Hit]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and IDENTIFIERS.fullmatch(token.string):
            yield Hit(name, token.start[0], token.string, "an identifier names its content")


def _beginnings(name: str, text: str) -> Iterator[Hit]:
    for line, docstring in _docstrings(text):
        if match := _BEGINNING.match(docstring):
            yield Hit(name, line, match.group(), "a docstring begins with the thing that it describes")


def main(arguments: list[str]) -> int:
    """Check files, or the repository; return 1 when there is a banned word."""
    if arguments:
        paths = [Path(argument).resolve() for argument in arguments]
    else:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.md"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        paths = [ROOT / each for each in listed if not each.startswith(SKIPPED) and (ROOT / each).is_file()]
    hits = [hit for path in paths for hit in check(path)]
    for hit in hits:
        print(f"{hit.path}:{hit.line}: {hit.word!r}: {hit.advice}")
    return int(bool(hits))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
