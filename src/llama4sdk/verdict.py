"""The verdict of a guard on one item, with the coverage that proves the inspection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, cast, get_args

from llama4sdk.errors import InvalidRequest

Stage: TypeAlias = Literal["input", "tool_call", "tool_result", "output"]
Action: TypeAlias = Literal["allow", "flag", "redact", "block", "ask"]
Status: TypeAlias = Literal["done", "waiting", "error"]


class Share(NamedTuple):
    """A part of a whole: how much was inspected of how much was present."""

    inspected: int
    present: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """The part of an item that a guard inspected.

    Args:
        characters: Of the item's text.
        windows: Of the pieces that the guard cut the item into.
        images: Of the item's images.
        files: Of the files that the guard wrote for a scanner.

    Raises:
        InvalidRequest: For a share that is no pair of counts, or more inspected than present.
    """

    characters: tuple[int, int] = (0, 0)
    windows: tuple[int, int] = (0, 0)
    images: tuple[int, int] = (0, 0)
    files: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for name in ("characters", "windows", "images", "files"):
            value: object = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != 2 or not all(type(part) is int for part in value):
                raise InvalidRequest(f"A coverage's {name} are a pair of counts, (inspected, present); got {value!r}.")
            share = Share(*value)
            if not 0 <= share.inspected <= share.present:
                raise InvalidRequest(f"A coverage cannot have inspected {share.inspected} {name} of {share.present}.")
            object.__setattr__(self, name, share)

    @classmethod
    def whole(cls, *, characters: int = 0, windows: int = 0, images: int = 0, files: int = 0) -> Coverage:
        """Return the coverage of an item of which everything was inspected."""
        return cls((characters, characters), (windows, windows), (images, images), (files, files))

    @property
    def complete(self) -> bool:
        """Whether everything that was present was inspected."""
        return all(part[0] == part[1] for part in (self.characters, self.windows, self.images, self.files))

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(
            _sum(self.characters, other.characters),
            _sum(self.windows, other.windows),
            _sum(self.images, other.images),
            _sum(self.files, other.files),
        )


@dataclass(frozen=True, slots=True)
class Redaction:
    """A stretch of an item's text, from `start` up to `end`, and its replacement."""

    start: int
    end: int
    replacement: str = "[redacted]"

    def __post_init__(self) -> None:
        if type(self.start) is not int or type(self.end) is not int or not isinstance(self.replacement, str):
            raise InvalidRequest("A redaction has two whole numbers, and its replacement is text.")
        if not 0 <= self.start < self.end:
            raise InvalidRequest(f"A redaction is a stretch of text; got {self.start} to {self.end}.")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one check.

    Args:
        action: `allow`, `flag` (report and go on), `redact`, `block`, or `ask` a person, which only the calls of a
            run have; elsewhere `ask` blocks.
        status: `done`; `waiting` for the rest of an answer that is still being written, where the coverage may be
            less than the item and nothing behind it is released; `error` when no verdict came to be.
        categories: Short names of the harms.
        score: How probable the harm is, 0 to 1, where the guard can tell.
        coverage: The part of the item that was inspected.
        redactions: With `redact`, the stretches to be replaced.
        reason: In words, for logs; never the text of the item.
        guard: The guard's name; filled in by the SDK, as the next two.
        stage: The item's stage.
        seconds: Duration of the check.

    Raises:
        InvalidRequest: For an unknown action or status, or a score out of range.
    """

    action: Action = "allow"
    status: Status = "done"
    categories: tuple[str, ...] = ()
    score: float | None = None
    coverage: Coverage = Coverage()
    redactions: tuple[Redaction, ...] = ()
    reason: str = ""
    guard: str = ""
    stage: Stage | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise InvalidRequest(f"action is one of {', '.join(get_args(Action))}; got {str(self.action)[:80]!r}.")
        if self.status not in get_args(Status):
            raise InvalidRequest(f"status is one of {', '.join(get_args(Status))}; got {str(self.status)[:80]!r}.")
        if not isinstance(self.coverage, Coverage):
            raise InvalidRequest("A verdict's coverage is a Coverage value.")
        if self.score is not None and not is_share(self.score):
            raise InvalidRequest(f"A score lies in [0, 1]; got {str(self.score)[:80]!r}.")
        _check_members("categories", self.categories, str)
        _check_members("redactions", self.redactions, Redaction)
        if not isinstance(self.reason, str):
            raise InvalidRequest("A verdict's reason is text.")
        object.__setattr__(self, "categories", tuple(self.categories))
        object.__setattr__(self, "redactions", tuple(sorted(self.redactions, key=lambda each: each.start)))
        if self.action == "redact" and not self.redactions:
            raise InvalidRequest("A verdict that redacts names the stretches to be replaced.")
        if self.action in ("allow", "flag") and self.redactions:
            raise InvalidRequest("A verdict that names stretches to be replaced has the action redact.")


def is_share(value: object) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return type(value) in (int, float) and math.isfinite(cast("float", value)) and 0 <= cast("float", value) <= 1


def _check_members(name: str, value: object, kind: type) -> None:
    members = cast("tuple[object, ...]", value) if isinstance(value, tuple | list) else None
    if members is None or not all(isinstance(member, kind) for member in members):
        raise InvalidRequest(f"A verdict's {name} are a tuple of {kind.__name__}.")


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]
