"""How much the random tests do: a little in the suite, much where `LLAMA4_LONG=1` is set."""

from __future__ import annotations

import os

LONG = os.environ.get("LLAMA4_LONG") == "1"


def often(usually: int, long: int) -> int:
    """Return how often something is done."""
    return long if LONG else usually
