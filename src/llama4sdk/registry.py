"""From a name to a backend: entry points in the group `llama4sdk.backends`.

An entry point's name is the scheme that users write (`local`, `http`, yours); it points at a function
that takes the whole string and the caller's options and returns a backend.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias, cast

from llama4sdk.backend import Backend
from llama4sdk.errors import BackendMissing, LlamaError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_ADDRESS = re.compile(r"(?:localhost|[\w-]+(?:\.[\w-]+)+|\[[\da-fA-F:]+\])(?::\d{1,5})(?:/|$)|localhost(?:/|$)")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
GROUP = "llama4sdk.backends"
Factory: TypeAlias = Callable[..., Backend]


def open_backend(target: str, /, **options: object) -> Backend:
    """Return the backend that a string such as `local:/models/scout` or an http URL names.

    Args:
        target: `scheme` or `scheme:rest`.
        options: Handed to the backend.

    Raises:
        BackendMissing: When none, or more than one, has that name, or it cannot be imported.
    """
    scheme = target.partition(":")[0]
    factory = _load(_only(scheme, _entry_points(), _hint(target)))
    backend = factory(target, **options)
    if not isinstance(backend, Backend):
        raise BackendMissing(f"What {scheme!r} stands for does not keep the Backend protocol (llama4sdk.Backend).")
    return backend


def _hint(target: str) -> str:
    """Return the spelling that a target of no known scheme probably stands for."""
    if target != target.strip():
        return " It has blanks or line feeds around it."
    if _ADDRESS.match(target):
        return f" For a server write 'http://{target[:200]}'."
    if target.startswith(("/", "~", ".")) or _DRIVE.match(target) or (target.count("/") == 1 and ":" not in target):
        return f" For a checkpoint write 'local:{target[:200]}'."
    names = difflib.get_close_matches(target.partition(":")[0].lower(), installed(), n=1)
    if names:
        return f" Did you mean {names[0]!r}?"
    if ":" in target:
        return ""
    return f" For a checkpoint folder write 'local:/path/of/{target[:80]}', for a server its http:// address."


def installed() -> tuple[str, ...]:
    """Return the names of all installed backends, sorted."""
    return tuple(sorted({point.name for point in _entry_points()}))


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _only(scheme: str, points: Iterable[EntryPoint], hint: str = "") -> EntryPoint:
    all_points = list(points)
    named = {point.value: point for point in all_points if point.name == scheme}
    if not named:
        names = sorted({point.name for point in all_points})
        raise BackendMissing(f"No backend named {scheme[:80]!r}; installed: {', '.join(names) or 'none'}.{hint}")
    if len(named) > 1:
        raise BackendMissing(f"More than one backend is named {scheme!r}: {', '.join(sorted(named))}; uninstall one.")
    return next(iter(named.values()))


def _load(point: EntryPoint) -> Factory:
    try:
        factory = point.load()
    except LlamaError:
        raise
    except Exception as error:
        hint = f"Install it with: pip install 'llama4sdk[{point.name}]'" if point.name == "local" else "Reinstall it"
        raise BackendMissing(
            f"The backend {point.name!r} ({point.value}) cannot be imported ({type(error).__name__}). {hint}."
        ) from error
    if not callable(factory):
        raise BackendMissing(f"The backend {point.name!r} ({point.value}) is not a function.")
    return cast("Factory", factory)
