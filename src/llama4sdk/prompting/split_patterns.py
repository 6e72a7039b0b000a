"""Tells which patterns of a `tokenizer.json` take time that grows with the text alone.

The library searches by backtracking, in a call that nothing can end: a pattern of the form (a+)+b takes for ever on
some text, whatever a trial on another one shows. So a pattern has to be a published one, or of a form without
backtracking: whatever follows an unbounded repetition may be absent, and groups are not repeated.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_MARKS = r"[^\s\p{L}\p{M}\p{N}]+"
_WORDS: dict[str, tuple[str, ...]] = {
    "Llama 4": (rf"{_LETTERS}{_UPPER}*{_LOWER}+{_SUFFIX}", rf"{_LETTERS}{_UPPER}+{_LOWER}*{_SUFFIX}"),
    "Llama 3": (r"[^\r\n\p{L}\p{N}]?+\p{L}+", r" ?[^\s\p{L}\p{N}]++[\r\n]*"),
    "nano": (rf"{_MARKS}(?: {_MARKS})* ?",),
}
# Branches of published patterns that backtrack, and not far while another branch, where one is named, stands beside
# them: it takes all that they gave up.
KNOWN_BRANCHES: dict[str, str | None] = {
    _WORDS["Llama 4"][0]: _WORDS["Llama 4"][1],
    **dict.fromkeys((*_WORDS["Llama 3"], *_WORDS["nano"], r"\s+(?!\S)")),
    **dict.fromkeys((r"\s*[\r\n]", r"\s*[\r\n]+"), r"\s+"),
}

_ONE = (
    r"\\[pP]\{\^?[A-Za-z_]+\}|\\x[0-9A-Fa-f]{2}|\\x\{[0-9A-Fa-f]{1,6}\}|\\u[0-9A-Fa-f]{4}|\\[rntfvsSdDwW]|\\[^A-Za-z0-9]"
    r"|\[\^?\]?(?:\\.|[^\[\]\\&])+\]|[^\\()\[\]{}*+?|^$]"
)
_ATOM, _LOOK = re.compile(_ONE), re.compile(rf"\(\?[!=](?:{_ONE})\)(?![?*+{{])")
_GROUP = re.compile(r"\((?:\?(?:[imx]{0,3}):)([^()]*)\)")
_TIMES = re.compile(r"(?:([?*+])|\{(\d{1,3})(?:(,)(\d{0,3}))?\})")
_MOST_CHOICES = 64  # ways to divide a text among bounded repetitions, all of which a search may try


def backtracking_branch(pattern: str) -> str | None:
    """Return the first branch of a pattern that may backtrack without a bound, or is not understood; None for none."""
    branches = list(_branches(pattern))
    known = {own for own, beside in KNOWN_BRANCHES.items() if beside is None or beside in branches}
    return next((branch for branch in branches if branch not in known and not _is_safe(branch)), None)


def _is_safe(branch: str) -> bool:
    place, repeated, choices = 0, False, 1
    while place < len(branch):
        look = None if repeated else _LOOK.match(branch, place)
        if look is not None:
            place = look.end()
            continue
        group = _GROUP.match(branch, place)
        item = group or _ATOM.match(branch, place)
        if item is None or (group and not all(map(_is_bounded, _branches(group[1])))):
            return False
        least, most, place = _times(branch, item.end())
        if (group and most != 1) or (repeated and least):
            return False
        unbounded = most is None
        choices *= 1 if most is None else most - least + 1
        repeated = repeated or unbounded
        if choices > _MOST_CHOICES:
            return False
    return bool(branch)


def _is_bounded(branch: str) -> bool:
    """Whether a branch of a group is some characters without repetition, one of which may be absent."""
    place = absent = 0
    while place < len(branch):
        atom = _ATOM.match(branch, place)
        if atom is None:
            return False
        least, most, place = _times(branch, atom.end())
        absent += 1 - least
        if most != 1:
            return False
    return bool(branch) and absent <= 1


def _times(branch: str, place: int) -> tuple[int, int | None, int]:
    """Return the least and the largest number of times, None for no bound, and where what follows begins."""
    times = _TIMES.match(branch, place)
    if times is None:
        return 1, 1, place
    sign, least, comma, most = times.groups()
    if sign:
        return int(sign == "+"), 1 if sign == "?" else None, times.end()
    fixed = int(least)
    return fixed, (int(most) if most else None) if comma else fixed, times.end()


def _branches(pattern: str) -> Iterator[str]:
    """Yield the alternatives of a pattern, cut at each | that is in no group and no class."""
    start = depth = place = 0
    in_class = False
    while place < len(pattern):
        char = pattern[place]
        if char == "\\":
            place += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "|" and depth == 0:
            yield pattern[start:place]
            start = place + 1
        place += 1
    yield pattern[start:]
