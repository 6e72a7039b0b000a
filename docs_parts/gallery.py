"""The gallery of examples, from the docstrings of `examples/`."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GROUPS = {
    "First steps": ("quickstart.py", "vision.py", "streaming.py", "notebook.ipynb"),
    "Answers and conversations": ("tools.py", "typed_answers.py", "sessions.py", "bulk.py"),
    "Backends": ("remote_server.py", "fallback.py", "guards.py", "own_backend.py", "ray_replicas.py"),
    "With other libraries": ("web_app.py", "openai_client.py", "langchain_app.py", "pydantic_ai_app.py"),
}
_HEAD = """\
# Examples

Each runs from a clone, offline, with the bundled nano model: `python examples/NAME.py`. The tests run them. For another
model set `LLAMA4_BACKEND`.
"""


def gallery(folder: Path) -> str:
    """Return the page.

    Raises:
        ValueError: An example has no place in it.
    """
    lost = {path.name for path in folder.iterdir() if path.is_file()} ^ {
        name for names in _GROUPS.values() for name in names
    }
    if lost:
        raise ValueError(f"Put these into, or out of, a group of {__name__}: {', '.join(sorted(lost))}.")
    return _HEAD + "".join(f"\n## {title}\n" + "".join(_entries(folder, names)) for title, names in _GROUPS.items())


def _entries(folder: Path, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            yield f"\n### {name}\n\n{_first_cell(text)}\n"
        else:
            source = f'??? example "Source"\n\n    ``` {{ .py }}\n    --8<-- "examples/{name}"\n    ```\n'
            yield f"\n### {name}\n\n{ast.get_docstring(ast.parse(text)) or ''}\n\n{source}"


def _first_cell(notebook: str) -> str:
    """Return the words of a notebook's first cell, without its heading."""
    return "".join(json.loads(notebook)["cells"][0]["source"]).partition("\n")[2].strip()
