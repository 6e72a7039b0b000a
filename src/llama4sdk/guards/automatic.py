"""The guards of a client that names none itself: those of the environment, else the bundled demonstration.

LLAMA4_GUARDS          guards, joined by commas: `llama-guard=http://127.0.0.1:8001/v1` or another backend,
                       `prompt-guard=/models/prompt-guard`, `code-shield`, `secrets`
LLAMA4_GUARD_MODEL     the model's name on the server of `llama-guard`, and LLAMA4_GUARD_API_KEY the key there
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from llama4sdk.errors import GuardsMissing, InvalidRequest
from llama4sdk.guards.code_shield import CodeShield
from llama4sdk.guards.llama_guard import LlamaGuard
from llama4sdk.guards.patterns import PatternGuard
from llama4sdk.guards.prompt_guard import PromptGuard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama4sdk.guards.protocol import Guard

_FORMS = "llama-guard=BACKEND, prompt-guard=MODEL, code-shield, secrets"
_ADDRESSES = ("http:", "https:")
_SIDE_BY_SIDE = 8  # checks that nano-guard computes at once


def automatic_guards(*, stacklevel: int = 2) -> tuple[Guard, ...]:
    """Return the guards of the environment; without any, nano-guard, with the warning `GuardsMissing`.

    Args:
        stacklevel: Whose line the warning shows, as in `warnings.warn`.

    Raises:
        InvalidRequest: `LLAMA4_GUARDS` cannot be read.
        BackendMissing: It names a guard of which a package is missing.
    """
    if guards := configured_guards():
        return guards
    warnings.warn(
        "No guards are configured: nano-guard checks this client's turns, which is a demonstration and no protection. "
        "Name guards (guards=[LlamaGuard(…)], or LLAMA4_GUARDS), or guards=None for none.",
        GuardsMissing,
        stacklevel=stacklevel + 1,
    )
    return (nano_guard(),)


def configured_guards(environ: Mapping[str, str] | None = None) -> tuple[Guard, ...]:
    """Return the guards that the environment names; empty where it names none.

    Args:
        environ: The environment; left out, the process's own.

    Raises:
        InvalidRequest: They cannot be read.
        BackendMissing: A package is missing.
    """
    environ = os.environ if environ is None else environ
    named = [part.strip() for part in environ.get("LLAMA4_GUARDS", "").split(",") if part.strip()]
    server = {"model": environ.get("LLAMA4_GUARD_MODEL", ""), "api_key": environ.get("LLAMA4_GUARD_API_KEY", "")}
    options: dict[str, object] = {name: value.strip() for name, value in server.items() if value.strip()}
    return guards_named(named, options)


def guards_named(named: Sequence[str], server: Mapping[str, Any] | None = None) -> tuple[Guard, ...]:
    """Return the guards of texts such as `llama-guard=http://127.0.0.1:8001/v1` or `code-shield`.

    Args:
        named: The texts.
        server: Options of a guard model's server.

    Raises:
        InvalidRequest: A text has another form.
        BackendMissing: A package is missing.
    """
    return tuple(_guard_named(text, server or {}) for text in named)


def nano_guard() -> LlamaGuard:
    """Return the bundled demonstration, which judges every stage on the CPU; see its card in `docs/nano_guard.md`."""
    return LlamaGuard(
        "local:nano-guard",
        stages=("input", "tool_call", "tool_result", "output"),
        name="nano-guard",
        device="cpu",
        dtype="float32",
        deterministic=True,
        max_sequences=_SIDE_BY_SIDE,
    )


def _guard_named(text: str, server: Mapping[str, Any]) -> Guard:
    kind, _, target = (part.strip() for part in text.partition("="))
    match kind, target:
        case "llama-guard", str() if target:
            return LlamaGuard(target, **(server if target.lower().startswith(_ADDRESSES) else {}))
        case "prompt-guard", str() if target:
            return PromptGuard(target)
        case "code-shield", "":
            return CodeShield()
        case "secrets", "":
            return PatternGuard(secrets=True, action="redact", name="secrets")
        case _:
            raise InvalidRequest(f"A guard is named as one of {_FORMS}; got {text[:80]!r}.")
