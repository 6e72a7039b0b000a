"""What `import llama4sdk` offers, and what it costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import llama4sdk

if TYPE_CHECKING:
    from types import ModuleType

FIXED = [
    "Llama4",
    "Stream",
    "Reply",
    "Usage",
    "Request",
    "Sampling",
    "Deadlines",
    "SystemMessage",
    "UserMessage",
    "AssistantMessage",
    "ToolMessage",
    "ToolCall",
    "Text",
    "Image",
    "Backend",
    "Capabilities",
    "Started",
    "Progress",
    "TextDelta",
    "ToolCallStarted",
    "ToolCallDelta",
    "ToolCallReady",
    "Partial",
    "UsageUpdate",
    "Switched",
    "Done",
    "LlamaError",
    "InvalidRequest",
    "ContextOverflow",
    "TooManyImages",
    "ImageError",
    "UrlBlocked",
    "Unreachable",
    "DeadlineExceeded",
    "Rejected",
    "BadKey",
    "ModelRetired",
    "Overloaded",
    "ServerFault",
    "ProtocolError",
    "StreamInterrupted",
    "OutputInvalid",
    "ToolFailed",
    "CheckpointError",
    "BackendMissing",
]
HEAVY = ("torch", "triton", "httpx", "PIL", "numpy", "tokenizers", "jinja2", "starlette", "uvicorn")


def test_every_promised_name_is_there() -> None:
    assert set(FIXED) <= set(llama4sdk.__all__)


def test_every_public_name_can_be_had_and_is_listed() -> None:
    assert list(llama4sdk.__all__) == sorted(llama4sdk.__all__)
    assert dir(llama4sdk) == list(llama4sdk.__all__)
    for name in llama4sdk.__all__:
        assert getattr(llama4sdk, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    module: ModuleType = llama4sdk
    with pytest.raises(AttributeError, match="Lama4"):
        _ = module.Lama4


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_client_imports_nothing_heavy() -> None:
    code = f"import sys; from llama4sdk import *; print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(code).strip() == "[]"


def import_seconds(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(run_python(code))


def test_importing_takes_at_most_twice_as_long_as_pydantic_alone() -> None:
    rounds = [(import_seconds("llama4sdk"), import_seconds("pydantic")) for _ in range(5)]
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    assert ours <= 2 * theirs
