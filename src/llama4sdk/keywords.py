"""Keywords that a caller misspells or misplaces, answered with the keyword that was probably meant."""

from __future__ import annotations

import functools
import inspect
from dataclasses import fields
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from llama4sdk.checks import unknown_name
from llama4sdk.request import Deadlines, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

P = ParamSpec("P")
R = TypeVar("R")

_GROUPS = {"sampling": Sampling, "deadlines": Deadlines}


def check_keywords(given: Iterable[str], known: Collection[str], subject: str) -> None:
    """Refuse keywords that are not known.

    Args:
        given: The keywords of a call.
        known: Those that exist.
        subject: The function or class, for the error.

    Raises:
        InvalidRequest: With the nearest keyword, and the list of all.
    """
    for name in given:
        if name not in known:
            raise unknown_name(subject, name, known, _group_of(name, known))


def explains_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make a method answer unknown keywords with `InvalidRequest` rather than `TypeError`; types stay as they are."""
    known = tuple(name for name in inspect.signature(function).parameters if name != "self")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        check_keywords(kwargs, known, f"{function.__name__}()")
        return function(*args, **kwargs)

    return call


def _group_of(name: str, known: Collection[str]) -> str:
    for group, kind in _GROUPS.items():
        if group in known and name in {field.name for field in fields(kind)}:
            return f" It belongs into {group}={kind.__name__}({name}=…)."
    return ""
