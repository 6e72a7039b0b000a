"""Replicas that run and no longer answer: their process is stopped, or its event loop hangs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama4_ray import cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_ray.cluster import Placed

_LOOKS = 30  # in a row at which a question is open: looks, not seconds, since this process may have been stopped itself


@dataclass(slots=True)
class _Question:
    """A call of a replica that is open, and the looks that found it so."""

    answer: Any
    looks: int = 0


class Pulse:
    """Asks replicas whether their event loops run; its calls block, as those of `cluster` do."""

    def __init__(self) -> None:
        self._questions: dict[Placed, _Question] = {}

    def silent(self, replicas: Sequence[Placed]) -> list[Placed]:
        """Look at the questions to some replicas, and return those whose answer has been out for too many looks."""
        questions = self._questions
        self._questions = {replica: self._looked_at(replica, questions.get(replica)) for replica in replicas}
        return [replica for replica, question in self._questions.items() if question.looks >= _LOOKS]

    def _looked_at(self, replica: Placed, question: _Question | None) -> _Question:
        """Return the question that is open from now on."""
        if question is None or cluster.has_come(question.answer):
            return _Question(cluster.ask(replica))
        question.looks += 1
        return question
