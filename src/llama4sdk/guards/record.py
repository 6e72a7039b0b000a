"""The verdicts of one turn, as its reply shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4sdk.guards.ruling import Ruling
    from llama4sdk.verdict import Verdict


class Record:
    """Keeps every verdict of a turn; of the checks of one growing answer the last, with the time of all of them."""

    def __init__(self) -> None:
        self._verdicts: list[Verdict] = []
        self._answer: dict[str, Verdict] = {}
        self._reported: set[tuple[str, str, tuple[str, ...]]] = set()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts so far, those on the answer last."""
        return (*self._verdicts, *self._answer.values())

    def add(self, ruling: Ruling) -> list[Verdict]:
        """Take the verdicts on one item in; return those that are to be reported.

        A finding in an answer is reported once, although each later check of the longer answer finds it again.
        """
        if ruling.item.stage != "output":
            self._verdicts += ruling.verdicts
            return list(ruling.reported)
        for verdict in ruling.verdicts:
            before = self._answer.get(verdict.guard)
            self._answer[verdict.guard] = _later(before, verdict) if before is not None else verdict
        fresh = [each for each in ruling.reported if each.status == "error" or _key(each) not in self._reported]
        self._reported.update(_key(each) for each in fresh)
        return fresh


def _key(verdict: Verdict) -> tuple[str, str, tuple[str, ...]]:
    return verdict.guard, verdict.action, verdict.categories


def _later(before: Verdict, verdict: Verdict) -> Verdict:
    """Return the later verdict, with the time of both and a finding that a later check does not repeat."""
    shown = verdict
    if verdict.action == "allow" and before.action != "allow":  # what was replaced is not found again
        shown = replace(verdict, action=before.action, categories=before.categories, redactions=before.redactions)
    return replace(shown, seconds=before.seconds + verdict.seconds)
