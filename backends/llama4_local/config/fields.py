"""Takes typed values out of untrusted JSON and collects everything that is wrong with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZE_LIMIT = 2**31 - 1
LAYER_LIMIT = 1024


class Fields:
    """One JSON object being read; problems go into the list that all its sections share.

    A value that is absent or null gives the default. A wrong one gives the default too, and a problem.

    Args:
        values: The object.
        place: Its name in problems, such as `text_config`; empty at the top.
        problems: Where problems are added.
    """

    def __init__(self, values: Mapping[str, object], place: str, problems: list[str]) -> None:
        self.values = values
        self.place = place
        self.problems = problems

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def refuse(self, key: str, what: str) -> None:
        """Add the problem that `key` is not what it must be."""
        where = f"{self.place}.{key}" if self.place else key
        self.problems.append(f"{where} {what}, got {_shown(self.values.get(key))}")

    def whole(self, key: str, default: int, *, low: int = 1, high: int = SIZE_LIMIT) -> int:
        """Return a whole number within `low` and `high`."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(key, f"must be a whole number from {low} to {high}")
            return default
        return value

    def whole_or_none(self, key: str, default: int | None, *, low: int = 1) -> int | None:
        """Return a whole number, or None where the key is present and null."""
        if key in self.values and self.values[key] is None:
            return None
        return self.whole(key, low, low=low) if key in self else default

    def number(self, key: str, default: float, *, zero: bool = False) -> float:
        """Return a finite number above zero, or from zero on."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not _fits(value, zero=zero):
            self.refuse(key, f"must be a finite number {'from' if zero else 'above'} 0")
            return default
        return float(value)

    def number_or_none(self, key: str, *, zero: bool = False) -> float | None:
        """Return a finite number, or None where there is none."""
        return self.number(key, 1.0, zero=zero) if key in self else None

    def flag(self, key: str, default: bool) -> bool:
        """Return a truth value; early configs write some of them as whole numbers."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int):
            self.refuse(key, "must be true or false")
            return default
        return bool(value)

    def text(self, key: str) -> str | None:
        """Return a string, or None where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            self.refuse(key, "must be a string")
            return None
        return value

    def whole_list(self, key: str) -> list[int] | None:
        """Return a list of whole numbers from 0 on, or None where there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        items = cast("list[object]", value) if isinstance(value, list) else None
        if items is None or len(items) > LAYER_LIMIT or not all(_is_index(item) for item in items):
            self.refuse(key, "must be a list of whole numbers")
            return None
        return cast("list[int]", items)

    def section(self, key: str) -> Fields:
        """Return the object under `key`, empty where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(key, "must be an object")
        values = cast("dict[str, object]", value) if isinstance(value, dict) else {}
        return Fields(values, f"{self.place}.{key}" if self.place else key, self.problems)

    def must_be(self, key: str, expected: object, reason: str) -> None:
        """Add a problem unless the value is absent or the one that is expected."""
        if key in self and self.values[key] != expected:
            self.refuse(key, f"must be {expected} ({reason})")


def _fits(value: float, *, zero: bool) -> bool:
    # An integer of many digits is larger than any float, so it is compared before it is converted.
    return abs(value) < 1e300 and math.isfinite(value) and (value > 0 or (zero and value == 0))


def _is_index(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= SIZE_LIMIT


def _shown(value: object) -> str:
    try:
        return str(value)[:80]
    except ValueError:  # Python refuses to write integers of thousands of digits
        return "a number beyond all limits"
