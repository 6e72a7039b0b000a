"""`typing.TypedDict` on Python 3.11, which pydantic does not take there, made into one that it takes."""

from __future__ import annotations

import sys
import types
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from llama4sdk.errors import InvalidRequest


def portable(annotation: Any) -> Any:
    """Return a type that pydantic takes in place of one with `typing.TypedDict` in it.

    Raises:
        InvalidRequest: For a TypedDict that holds itself.
    """
    return annotation if sys.version_info >= (3, 12) else _portable(annotation, ())


def _portable(annotation: Any, within: tuple[object, ...]) -> Any:
    if is_typeddict(annotation):
        return _rebuilt(annotation, within) if type(annotation).__module__ == "typing" else annotation
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is None or origin is Literal:
        return annotation
    if origin is Annotated:
        return Annotated[(_portable(args[0], within), *args[1:])]
    made = tuple(_portable(arg, within) for arg in args)
    if all(new is old for new, old in zip(made, args, strict=True)):
        return annotation
    return Union[made] if origin in (Union, types.UnionType) else origin[made]  # noqa: UP007 - made at run time


def _rebuilt(kind: Any, within: tuple[object, ...]) -> Any:
    from typing import NotRequired, Required

    from typing_extensions import TypedDict

    if kind in within:
        raise InvalidRequest(f"{kind.__name__} holds itself; take TypedDict from typing_extensions for that.")
    fields: dict[str, Any] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        said = get_origin(hint) if get_origin(hint) in (Required, NotRequired) else None
        mark = said or (Required if name in kind.__required_keys__ else NotRequired)
        fields[name] = mark[_portable(get_args(hint)[0] if said else hint, (*within, kind))]
    made = cast("Any", TypedDict)(kind.__name__, fields)
    made.__doc__ = kind.__doc__
    return made
