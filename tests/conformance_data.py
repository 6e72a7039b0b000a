"""Finds the folder of conformance data: answers of Meta's published reference on fixed inputs.

It is not part of the project. The environment variable `LLAMA4_CONFORMANCE` names it; else it is looked for at
`../shared/conformance` from the project's root. Tests that need it are skipped where it is missing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypeAlias, cast

import pytest

Case: TypeAlias = "dict[str, object]"
_ROOT = Path(__file__).resolve().parent.parent


def folder() -> Path:
    """Return where the folder should be, whether it is there or not."""
    named = os.environ.get("LLAMA4_CONFORMANCE")
    return Path(named) if named else _ROOT.parent / "shared" / "conformance"


def file(name: str) -> Path:
    """Return a file of the folder, or skip the test that asks for it."""
    path = folder() / name
    if not path.is_file():
        pytest.skip(f"no conformance data: {path} is missing; name its folder in LLAMA4_CONFORMANCE")
    return path


def cases(name: str) -> list[Case]:
    """Return the cases of a JSON file of the folder, or skip the test that asks for them."""
    return cast("list[Case]", json.loads(file(name).read_text(encoding="utf-8")))
