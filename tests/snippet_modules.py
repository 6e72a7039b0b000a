"""The Python snippets of README and documentation as modules that type checkers can read."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "backends" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^( *)```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# Names that the text around a snippet introduces. What a snippet does not use, or only shows, is no fault.
_PRELUDE = """\
# pyright: reportUnusedVariable=false, reportUnusedExpression=false, reportUnusedFunction=false
# pyright: reportUnusedClass=false, reportUnusedImport=false, reportMissingModuleSource=false
from __future__ import annotations

import asyncio
from collections.abc import Callable

import llama4_local
from llama4_http import HttpBackend
from llama4sdk import Backend, Image, Llama4, Message, Request, Session, SystemMessage, UserMessage
from llama4sdk.testing import ScriptedBackend as MyBackend

llama: Llama4
session: Session
backend: Backend
dialog: list[Message]
prompts: list[str]
document: str
question: str
token_ids: list[int]
text: str
tools: list[Callable[..., object]]
"""


def module_of(page: Path) -> str:
    """Return one module with every snippet of a page, each in a function of its own.

    Imports, classes and functions stand before these, since later snippets of a page use them.
    """
    text = page.read_text(encoding="utf-8")
    shared: dict[str, str] = {}
    functions: list[str] = []
    for match in _FENCE.finditer(text):
        line = text[: match.start()].count("\n") + 2
        rest: list[str] = []
        for statement in _statements(textwrap.dedent(match[2])):
            name = _shared_as(statement)
            if name is None or (name in shared and not isinstance(statement, ast.Import | ast.ImportFrom)):
                rest.append(ast.unparse(statement))
            elif f"\n{name}\n" not in _PRELUDE:
                shared[name] = ast.unparse(statement)
        if rest:
            body = textwrap.indent("\n".join(rest), "    ")
            functions.append(f"async def line_{line}() -> None:\n{body}\n")
    return "\n".join([_PRELUDE, *shared.values(), "", *functions])


def snippets_of(page: Path) -> list[str]:
    """Return the snippets of a page."""
    return [textwrap.dedent(match[2]) for match in _FENCE.finditer(page.read_text(encoding="utf-8"))]


async def run_snippets(snippets: list[str]) -> None:
    """Run snippets one after the other, as they stand on their page."""
    names: dict[str, Any] = {}
    for snippet in snippets:
        code = compile(snippet, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)  # a page of our own
        if inspect.isawaitable(running):
            await running


def _statements(code: str) -> list[ast.stmt]:
    compiled = compile(code, "snippet", "exec", flags=ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if not isinstance(compiled, ast.Module):
        raise TypeError("A snippet is a sequence of statements.")
    return compiled.body


def _shared_as(statement: ast.stmt) -> str | None:
    """Return the name by which a statement is shared with later snippets; None for one that is not."""
    match statement:
        case ast.Import() | ast.ImportFrom():
            return ast.unparse(statement)
        case ast.ClassDef() | ast.FunctionDef():
            return statement.name
        case ast.AsyncFunctionDef() if statement.name != "main":
            return statement.name
        case _:
            return None
