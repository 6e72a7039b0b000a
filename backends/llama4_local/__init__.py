"""The local backend of llama4sdk: Llama 4 in this process, on a GPU or on the CPU.

    LocalBackend    a backend for a checkpoint folder, or for the bundled nano model
    open_backend    the same, from a string such as `local:/models/scout`
    plan            what a model takes on a machine, and whether it fits
    score           logits of every position of a prompt, through the step that serving uses

Importing this package is cheap; torch is imported when a model is about to be loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4_local.backend import LocalBackend, open_backend
    from llama4_local.planning import plan
    from llama4_local.scoring import score

__all__ = ["LocalBackend", "open_backend", "plan", "score"]

_HOMES = {"LocalBackend": "backend", "open_backend": "backend", "plan": "planning", "score": "scoring"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        from llama4sdk.errors import BackendMissing

        raise BackendMissing(
            f"The local backend needs {error.name}. Install it with: pip install 'llama4sdk[local]'", backend="local"
        ) from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
