"""The Python snippets of README and documentation as modules that type checkers can read."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Iterator
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
    for line, code in snippets_of(text):
        rest: list[str] = []
        for statement in _statements(code):
            name = _shared_as(statement)
            if name is None or (name in shared and not isinstance(statement, ast.Import | ast.ImportFrom)):
                rest.append(ast.unparse(statement))
            elif f"\n{name}\n" not in _PRELUDE:
                shared[name] = ast.unparse(statement)
        if rest:
            body = textwrap.indent("\n".join(rest), "    ")
            functions.append(f"async def line_{line}() -> None:\n{body}\n")
    return "\n".join([_PRELUDE, *shared.values(), "", *functions])


def snippets_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the code of each snippet of a page."""
    for match in _FENCE.finditer(text):
        yield text[: match.start()].count("\n") + 2, textwrap.dedent(match[2])


async def run_snippet(code: str, names: dict[str, Any], *, page: str = "page", line: int = 1) -> None:
    """Run a snippet of ours: in this loop where it awaits, else in a thread, where it may have a loop of its own."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile("\n" * (line - 1) + code, page, "exec", flags=flags, dont_inherit=True)
    if compiled.co_flags & inspect.CO_COROUTINE:
        await eval(compiled, names)
    else:
        await asyncio.to_thread(exec, compiled, names)


def _statements(code: str) -> list[ast.stmt]:
    compiled = compile(code, "snippet", "exec", flags=ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if not isinstance(compiled, ast.Module):
        raise TypeError("A snippet is a sequence of statements.")
    return compiled.body


def _shared_as(statement: ast.stmt) -> str | None:
    """Return the name by which a statement is shared with later snippets; None for one that is not."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() if any(map(_is_route, statement.decorator_list)):
            return None
        case ast.Import() | ast.ImportFrom():
            return ast.unparse(statement)
        case ast.ClassDef() | ast.FunctionDef():
            return statement.name
        case ast.AsyncFunctionDef() if statement.name != "main":
            return statement.name
        case _:
            return None


def _is_route(decorator: ast.expr) -> bool:
    """Return whether a decorator is a method, as of an application that the snippet makes."""
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute)
