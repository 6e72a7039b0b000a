"""Bulk work with a journal, as the tests of journals do it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama4sdk import Llama4
from llama4sdk.bulk import Outcome, map_prompts
from llama4sdk.messages import Prompt
from llama4sdk.testing import ScriptedBackend

PROMPTS = [f"prompt {number}" for number in range(10)]
KEY = "0" * 64


async def work(path: Path, backend: ScriptedBackend, prompts: Sequence[Prompt] = PROMPTS, **how: Any) -> list[Outcome]:
    async with Llama4(backend) as llama, map_prompts(llama, prompts, journal=path, ordered=True, **how) as outcomes:
        return [outcome async for outcome in outcomes]


def texts(outcomes: list[Outcome]) -> list[str]:
    return [outcome.result().text for outcome in outcomes]
