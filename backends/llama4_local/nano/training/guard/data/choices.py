"""Random choices that keep a part of every list from training: the held-out wordings and words."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random


_SALT = "nano-guard-1"
_KEPT = 6  # one entry in six is kept for tests
_Entry = TypeVar("_Entry")
Words: TypeAlias = tuple[str, ...]
Split: TypeAlias = Literal["train", "wordings", "words"]


def is_held_out(entry: str) -> bool:
    """Return whether training never meets an entry of a list; the same on every machine."""
    return hashlib.sha256(f"{_SALT}:{entry}".encode()).digest()[0] % _KEPT == 0


class Choices:
    """Draws from lists; of a split, only what belongs to it.

    Args:
        rng: The source of chance.
        split: `train` draws what is not held out; `wordings` draws wordings that are, with words of training in them;
            `words` draws words too that training never met.
    """

    def __init__(self, rng: Random, split: Split = "train") -> None:
        self.rng = rng
        self.split: Split = split

    def one(self, entries: Words) -> str:
        """Return a wording of the split; of a list without one, any."""
        return self.rng.choice(_part(entries, held_out=self.split != "train"))

    def word(self, entries: Words) -> str:
        """Return a word, or a few, of the split; of a list without one, any."""
        return self.rng.choice(_part(entries, held_out=self.split == "words"))

    def any(self, entries: Sequence[_Entry]) -> _Entry:
        """Return any entry: for what decides nothing, such as names."""
        return self.rng.choice(entries)

    def chance(self, share: float) -> bool:
        """Return True with a probability."""
        return self.rng.random() < share

    def filled(self, wordings: Words, **lists: Words) -> str:
        """Return a wording with each field filled from its list of words."""
        wording = self.one(wordings)
        return wording.format(
            **{name: self.word(entries) for name, entries in lists.items() if f"{{{name}}}" in wording}
        )


@cache
def _part(entries: Words, *, held_out: bool) -> Words:
    return tuple(entry for entry in entries if is_held_out(entry) is held_out) or entries
