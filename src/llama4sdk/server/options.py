"""The options of a server, checked where they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from llama4sdk.checks import check_number, check_whole, shown
from llama4sdk.errors import InvalidRequest
from llama4sdk.request import Deadlines

_LARGEST = 2**31 - 1
_MEBI = 1 << 20


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits of one key; None for none.

    Args:
        running: Most requests at the same time.
        per_minute: Most requests in a minute; as many may come at once after a pause.
    """

    running: int | None = None
    per_minute: int | None = None

    def __post_init__(self) -> None:
        check_whole("running", self.running, 1, _LARGEST)
        check_whole("per_minute", self.per_minute, 1, _LARGEST)


class ServerKeywords(TypedDict, total=False):
    """The options of `create_app` and `serve`, as `ServerOptions` describes them."""

    api_keys: str | Sequence[str] | Mapping[str, KeyLimits]
    model_names: str | Sequence[str]
    max_running: int
    max_body: int
    max_choices: int
    body_seconds: float
    write_seconds: float
    deadlines: Deadlines
    remote_images: bool
    cors_origins: str | Sequence[str]
    allowed_hosts: str | Sequence[str]
    chat_page: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The options of a server.

    Args:
        api_keys: Bearer keys that are accepted, each with its limits; without any, every request is.
        model_names: Names under which the model is served, the first one listed; the backend's own when left out.
        max_running: Most requests at the same time; beyond it they are refused with status 503.
        max_body: Most bytes of a request's body.
        max_choices: Most answers that one request may ask for: its prompts times `n`.
        body_seconds: Seconds within which a request's body must arrive.
        write_seconds: Seconds that a client may leave a chunk unread, before its request is given up.
        deadlines: How long each phase of an answer may take.
        remote_images: Whether the server fetches images from http(s) URLs that requests name.
        cors_origins: Origins whose pages may use the server from a browser; `*` for all.
        allowed_hosts: Names that the `Host` header may have, without port; all when empty.
        chat_page: Whether `/` is a chat page.

    Raises:
        InvalidRequest: For an option out of range, or an empty key.
    """

    api_keys: str | Sequence[str] | Mapping[str, KeyLimits] = ()
    model_names: str | Sequence[str] = ()
    max_running: int = 1024
    max_body: int = 64 * _MEBI
    max_choices: int = 128
    body_seconds: float = 60.0
    write_seconds: float = 60.0
    deadlines: Deadlines = Deadlines()
    remote_images: bool = False
    cors_origins: str | Sequence[str] = ()
    allowed_hosts: str | Sequence[str] = ()
    chat_page: bool = False

    def __post_init__(self) -> None:
        check_whole("max_running", self.max_running, 1, _LARGEST, optional=False)
        check_whole("max_body", self.max_body, 1, _LARGEST, optional=False)
        check_whole("max_choices", self.max_choices, 1, _LARGEST, optional=False)
        check_number("body_seconds", self.body_seconds, 0, math.inf, above=True)
        check_number("write_seconds", self.write_seconds, 0, math.inf, above=True)
        object.__setattr__(self, "api_keys", _keys(self.api_keys))
        for name in ("model_names", "cors_origins", "allowed_hosts"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))

    @property
    def limits_by_key(self) -> Mapping[str, KeyLimits]:
        """The keys, each with its limits."""
        return cast("Mapping[str, KeyLimits]", self.api_keys)


def _names(field: str, given: object) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise InvalidRequest(f"{field} is a name or a sequence of names; got {shown(given)}.")
    return tuple(cast("Sequence[str]", names))


def _keys(given: object) -> Mapping[str, KeyLimits]:
    keys: object = dict.fromkeys(_as_sequence(given), KeyLimits()) if not isinstance(given, Mapping) else dict(given)
    for key, limits in cast("dict[object, object]", keys).items():
        if not isinstance(key, str) or not key.strip() or not key.isascii():
            raise InvalidRequest("An API key is text of ASCII letters, digits and signs, and not empty.")
        if not isinstance(limits, KeyLimits):
            raise InvalidRequest("api_keys holds keys, or maps each key to KeyLimits(…).")
    return cast("dict[str, KeyLimits]", keys)


def _as_sequence(given: object) -> Sequence[object]:
    if isinstance(given, str):
        return (given,)
    if isinstance(given, Sequence | set | frozenset):
        return tuple(cast("Sequence[object]", given))
    raise InvalidRequest("api_keys is a key, a sequence of keys, or a mapping of keys to KeyLimits(…).")
