"""From a name to a backend: entry points in the group `llama4sdk.backends`.

An entry point's name is the scheme that users write (`local`, `http`, yours); it points at a function
that takes the whole string and the caller's options and returns a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias, cast

from llama4sdk.backend import Backend
from llama4sdk.errors import BackendMissing, LlamaError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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
    factory = _load(_only(scheme, _entry_points()))
    backend = factory(target, **options)
    if not isinstance(backend, Backend):
        raise BackendMissing(f"What {scheme!r} stands for does not keep the Backend protocol (llama4sdk.Backend).")
    return backend


def installed() -> tuple[str, ...]:
    """Return the names of all installed backends, sorted."""
    return tuple(sorted({point.name for point in _entry_points()}))


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _only(scheme: str, points: Iterable[EntryPoint]) -> EntryPoint:
    all_points = list(points)
    named = {point.value: point for point in all_points if point.name == scheme}
    if not named:
        names = ", ".join(sorted({point.name for point in all_points})) or "none"
        raise BackendMissing(f"No backend named {scheme[:80]!r}; installed: {names}.")
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
