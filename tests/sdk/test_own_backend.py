"""The example of an own backend keeps every promise of a backend."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import cast

from llama4sdk import Backend
from llama4sdk.testing.conformance import BackendConformance

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_backend.py"


class TestOwnBackend(BackendConformance):
    long_prompt = "word " * 50

    def make(self) -> Backend:
        return cast("type[Backend]", runpy.run_path(str(EXAMPLE))["Shouting"])()
