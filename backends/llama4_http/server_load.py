"""How many requests a server runs, out of its Prometheus metrics: pure."""

from __future__ import annotations

import math
import re
from typing import Final

MAX_METRICS: Final = 4 << 20  # bytes of an answer that are read

# Gauges of running requests, the most telling first: this project's engine, then vLLM, SGLang, llama.cpp, NIM.
_GAUGES: Final = (
    r'llama4_engine_requests\{state="running"\}',
    r"llama4_requests_running",
    r"vllm:num_requests_running",
    r"sglang:num_running_reqs",
    r"llamacpp:requests_processing",
    r"num_requests_running",
)


def running_in(metrics: str) -> int | None:
    """Return the number of running requests, over all models and processes; None where none is told."""
    for gauge in _GAUGES:
        numbers = re.findall(rf"^{gauge}(?:\{{[^\n]*\}})?[ \t]+(\S+)", metrics, re.MULTILINE)
        if numbers:
            return _sum(numbers)
    return None


def _sum(numbers: list[str]) -> int | None:
    try:
        total = sum(float(number) for number in numbers)
    except ValueError:
        return None
    return int(total) if math.isfinite(total) else None
