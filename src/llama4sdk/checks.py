"""Checks of single fields, each with an error that names the field and its bounds."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from typing import TYPE_CHECKING, TypeVar, cast

from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

T = TypeVar("T")
_SHOWN = 80  # characters of a wrong value that an error shows


def check_number(
    name: str, value: object, low: float, high: float, *, above: bool = False, optional: bool = True
) -> None:
    """Refuse a value that is no finite number within bounds.

    Args:
        name: The field.
        value: Its value.
        low: The least.
        high: The largest, or infinity.
        above: Whether it lies above `low` rather than at it.
        optional: Whether None passes.
    """
    if value is None and optional:
        return
    span = (
        f"{'(' if above else '['}{low:g}, {high:g}]"
        if high != math.inf
        else f"{'above' if above else 'at least'} {low:g}"
    )
    if not _is_finite(value):
        raise InvalidRequest(f"{name} must be a finite number, {span}; got {shown(value)}.")
    if value > high or value < low or (above and value == low):  # type: ignore[operator]
        raise InvalidRequest(f"{name} must be {'in ' if high != math.inf else ''}{span}; got {shown(value)}.")


def check_whole(name: str, value: object, low: int, high: int | None = None, *, optional: bool = True) -> None:
    """Refuse a value that is no whole number within bounds.

    Args:
        name: The field.
        value: Its value.
        low: The least.
        high: The largest; None for no bound.
        optional: Whether None passes.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        hint = "; leave it out for the default" if value is None else ""
        raise InvalidRequest(f"{name} must be a whole number; got {shown(value)}{hint}.")
    if value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidRequest(f"{name} must be {span}; got {shown(value)}.")


def check_text(name: str, value: object, most: int) -> None:
    """Refuse a value that is no text of at most `most` characters, or that UTF-8 cannot hold."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be text; got {shown(value)}.")
    if len(value) > most:
        raise InvalidRequest(f"{name} has at most {most} characters; got {len(value)}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} holds a lone surrogate at character {error.start}.") from None


def check_flag(name: str, value: object) -> None:
    """Refuse a value that is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be True or False; got {shown(value)}.")


def check_kind(name: str, value: object, kind: type, form: str) -> None:
    """Refuse a value that is not of a type; `form` says how one is made."""
    if not isinstance(value, kind):
        raise InvalidRequest(f"{name} must be {form}; got {shown(value)}.")


def unknown_name(subject: str, name: str, known: Collection[str], hint: str = "") -> InvalidRequest:
    """Return the error for an option that does not exist: with `hint`, else the nearest one, and the list of all."""
    close = difflib.get_close_matches(name, known, n=1)
    meant = hint or (f" Did you mean {close[0]!r}?" if close else "")
    return InvalidRequest(f"{subject} has no option {name[:80]!r}.{meant} There are: {', '.join(sorted(known))}.")


def explains_fields(kind: type[T]) -> type[T]:
    """Make a dataclass answer fields that it does not have with `InvalidRequest`, the nearest of its own and a list."""
    made = cast("Callable[..., None]", kind.__init__)
    known = tuple(inspect.signature(kind).parameters)

    @functools.wraps(made)
    def init(self: T, *args: object, **kwargs: object) -> None:
        for name in kwargs:
            if name not in known:
                raise unknown_name(kind.__name__, name, known)
        made(self, *args, **kwargs)

    kind.__init__ = init
    return kind


def shown(value: object) -> str:
    """Return a value as an error shows it, cut where it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_SHOWN:
        return "a number of more than 80 digits"
    try:
        text = repr(value).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - a foreign object may fail to print
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False
