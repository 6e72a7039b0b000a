"""Reads and writes sizes as people give them: `141GB`, `80GiB`, `1M`, `4.3TB/s`."""

from __future__ import annotations

import re
from fractions import Fraction

from llama4sdk.errors import InvalidRequest

LARGEST = 2**63 - 1
_POWERS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_EACH = re.compile(r"([0-9]{1,6}) ?[x×] ?(.+)", re.IGNORECASE)
_SIZE = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?) ?([kmgt]i?|)(b|)(/s|)", re.IGNORECASE)


def parse_bytes(size: int | str, *, name: str = "memory") -> int:
    """Return the bytes that `141GB` (powers of 1000), `80GiB` (powers of 1024) or a whole number means.

    Args:
        size: A number of bytes, or a string with a unit that ends in B.
        name: What errors call it.

    Raises:
        InvalidRequest: It means no whole number of bytes, or less than one.
    """
    return _whole(size, name, "a number of bytes or a string like '141GB' or '80GiB'", ending="b")


def parse_memories(size: int | str, ranks: int | None) -> tuple[int, int]:
    """Return the number of ranks and the bytes of each that `8x80GB` means, or `80GB` for one.

    Args:
        size: As `parse_bytes` reads it, or that behind a number of ranks and an `x`.
        ranks: Their number where it is given besides.

    Raises:
        InvalidRequest: It means nothing, it names another number of ranks, or it names none for several.
    """
    match = _EACH.fullmatch(str(size))
    if match is None:
        each = parse_bytes(size)
        if ranks is not None and ranks > 1:
            raise InvalidRequest(f"memory for tensor_parallel={ranks} names that of each, as in '{ranks}x80GB'.")
        return 1, each
    count = int(match[1])
    if count < 1 or ranks not in (None, count):
        raise InvalidRequest(
            f"memory={str(size)[:80]!r} is that of {count} ranks; tensor_parallel={ranks or 1} has to agree."
        )
    return count, parse_bytes(match[2])


def parse_tokens(size: int | str, *, name: str = "context") -> int:
    """Return the tokens that `1M` (a million), `1Mi` (1,048,576), `8192` or a whole number means.

    Args:
        size: A number of tokens, or a string with or without a unit.
        name: What errors call it.

    Raises:
        InvalidRequest: It means no whole number of tokens, or less than one.
    """
    return _whole(size, name, "a number of tokens or a string like '128K', '1M' or '1Mi' (2^20)", ending="")


def parse_bandwidth(size: float | str, *, name: str = "bandwidth") -> int:
    """Return the bytes per second that `4.3TB/s` or a whole number means.

    Raises:
        InvalidRequest: It means no whole number of bytes per second, or less than one.
    """
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    return _whole(size, name, "a number of bytes per second or a string like '4.3TB/s'", ending="b/s")


def _whole(size: object, name: str, example: str, *, ending: str) -> int:
    count = _read(size, ending)
    if count is None:
        raise InvalidRequest(f"{name} is {example}, got {str(size)[:80]!r}.")
    if count.denominator != 1 or not 1 <= count <= LARGEST:
        raise InvalidRequest(f"{name} is a whole number from 1 to 2^63 - 1, got {str(size)[:80]!r}.")
    return int(count)


def _read(size: object, ending: str) -> Fraction | None:
    if isinstance(size, int) and not isinstance(size, bool):
        return Fraction(size) if abs(size) <= LARGEST else Fraction(-1)
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None or (match[3] + match[4]).lower() != ending:
        return None
    return Fraction(match[1]) * _POWERS[match[2].lower()]


def show_bytes(count: float) -> str:
    """Return bytes in the largest unit that keeps them above one: `60.3 GB`."""
    for power, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if abs(count) >= power:
            return f"{count / power:,.4g} {unit}" if abs(count) < 1000 * power else f"{count / power:,.0f} {unit}"
    return f"{count:,.0f} B"


def show_time(seconds: float) -> str:
    """Return seconds in a readable unit: `2.3 ms`."""
    for power, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= power:
            return f"{seconds / power:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
