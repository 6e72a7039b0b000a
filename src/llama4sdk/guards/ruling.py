"""The verdicts on one item, taken together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4sdk.errors import GuardBlocked
from llama4sdk.guards.held import merged

if TYPE_CHECKING:
    from llama4sdk.guards.protocol import Item
    from llama4sdk.verdict import Redaction, Verdict


@dataclass(frozen=True, slots=True)
class Ruling:
    """The verdicts of all guards on one item.

    Args:
        item: The item.
        verdicts: One of each guard that checks its stage.
        attended: Whether a person can be asked about a call.
    """

    item: Item
    verdicts: tuple[Verdict, ...] = ()
    attended: bool = True

    @property
    def blocking(self) -> Verdict | None:
        """The verdict that blocks the item; asking a person is possible for calls only, and blocks elsewhere."""
        blocks = ("block",) if self.item.stage == "tool_call" and self.attended else ("block", "ask")
        # The arguments of a call are JSON: replacing a stretch of it would make another call.
        blocks += ("redact",) if self.item.stage == "tool_call" else ()
        return next((verdict for verdict in self.verdicts if verdict.action in blocks), None)

    @property
    def reported(self) -> tuple[Verdict, ...]:
        """The verdicts that are reported although the turn goes on."""
        return tuple(each for each in self.verdicts if each.action != "allow" or each.status == "error")

    @property
    def redactions(self) -> tuple[Redaction, ...]:
        """All stretches to be replaced, in order, without overlaps."""
        return merged(one for verdict in self.verdicts if verdict.action == "redact" for one in verdict.redactions)

    @property
    def cleared(self) -> int:
        """Characters of the item up to which every guard has come."""
        waiting = [verdict.coverage.characters[0] for verdict in self.verdicts if verdict.status == "waiting"]
        return min(waiting, default=len(self.item.text))

    @property
    def sound(self) -> bool:
        """Whether every guard gave a verdict, so that the item need not be inspected again."""
        return all(verdict.status == "done" for verdict in self.verdicts)

    def check(self, *, message: int | None = None) -> None:
        """Raise `GuardBlocked` where a verdict blocks.

        Args:
            message: Which message of the conversation the item is of, counted from 0, where it is an earlier one.
        """
        verdict = self.blocking
        if verdict is None:
            return
        of = {"input": "input", "tool_call": "tool call", "tool_result": "tool's result", "output": "answer"}
        harms = f" ({', '.join(verdict.categories)})" if verdict.categories else ""
        place = "" if message is None else f" in message {message} of the conversation"
        remedy = "Ask for something else" if message is None else "Leave that message out"
        raise GuardBlocked(
            f"The guard {verdict.guard} blocked the {of[self.item.stage]}{place}{harms}. "
            f"{remedy}; reply.guards and the error's fields tell which check it was.",
            stage=self.item.stage,
            guard=verdict.guard,
            categories=verdict.categories,
            request_id=self.item.request_id or None,
        )
