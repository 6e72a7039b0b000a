"""The backend that the environment names, for a client that is made without one.

    LLAMA4_BACKEND   its name, such as `local:/models/scout` or `http://127.0.0.1:8000/v1`; else `local`
    LLAMA4_API_KEY   the key of a server, and LLAMA4_MODEL the model's name there
    LLAMA4_OPTIONS   options of the backend: a JSON object, or `quantize=int4,context=8192`

A key is never sent to a server that the program names itself.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, cast

from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

_ADDRESSES = ("http:", "https:")


def backend_named(environ: Mapping[str, str] | None = None) -> tuple[str, dict[str, object]]:
    """Return the backend's name and its options.

    Args:
        environ: The environment; left out, the process's own.

    Raises:
        InvalidRequest: For options that cannot be read.
    """
    environ = os.environ if environ is None else environ
    name = environ.get("LLAMA4_BACKEND", "").strip() or "local"
    options: dict[str, object] = {}
    if name.lower().startswith(_ADDRESSES):
        for option, variable in (("api_key", "LLAMA4_API_KEY"), ("model", "LLAMA4_MODEL")):
            if value := environ.get(variable, "").strip():
                options[option] = value
    return name, options | options_in(environ.get("LLAMA4_OPTIONS", ""))


def options_in(text: str) -> dict[str, object]:
    """Return the options that a text holds: a JSON object, or names and values joined by commas.

    Raises:
        InvalidRequest: It is neither.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            given: object = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidRequest("LLAMA4_OPTIONS begins with { and is no JSON object.") from None
        return cast("dict[str, Any]", given)
    return dict(option_in(part) for part in text.split(",") if part.strip())


def option_in(text: str) -> tuple[str, object]:
    """Return the name and value of one option, as in `context=8192`; what is no JSON value is a string.

    Raises:
        InvalidRequest: It has no `=`, or no name before it.
    """
    name, sign, written = text.partition("=")
    name = name.strip().replace("-", "_")
    if not sign or not name.isidentifier():
        raise InvalidRequest(f"An option is written as name=value; got {text.strip()[:80]!r}.")
    written = written.strip()
    special: dict[str, object] = {"True": True, "False": False, "None": None}
    try:
        return name, special[written] if written in special else json.loads(written)
    except (ValueError, RecursionError):
        return name, written
