"""The outcome of a probe of the doctor."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from llama4sdk.request import Deadlines

Verdict: TypeAlias = Literal["yes", "no", "unknown", "failed"]
PATIENCE = Deadlines(first_token=120, idle=60, total=180)


class Finding(NamedTuple):
    """The outcome of one probe."""

    verdict: Verdict
    detail: str = ""
