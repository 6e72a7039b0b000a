from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "backends" / "llama4_local"
AOT = "llama4_local.ops.kernels.aot"  # the wheel leaves it out


def imported(source: str) -> set[str]:
    """The modules that a source imports anywhere, in functions too."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def needs_aot(source: str) -> bool:
    return any(f"{module}.".startswith(f"{AOT}.") for module in imported(source))


def test_no_module_at_runtime_imports_ahead_of_time_compilation() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if "aot" not in path.relative_to(PACKAGE).parts]
    assert len(files) > 50
    assert [path.name for path in files if needs_aot(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import llama4_local.ops.kernels.aot.compiled",
        "from llama4_local.ops.kernels import aot",
        "def check():\n    from llama4_local.ops.kernels.aot.compiled import plans",
    ],
)
def test_an_import_of_ahead_of_time_compilation_is_reported(source: str) -> None:
    assert needs_aot(source)
    assert not needs_aot(source.replace("aot", "launch"))
