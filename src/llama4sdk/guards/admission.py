"""The judging of a request's input: its last turn, and what of its history was never cleared, at the same time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio

from llama4sdk.errors import GuardUnavailable
from llama4sdk.guards.held import redacted
from llama4sdk.guards.items import Placed, prompt_items, raw_item, with_redactions
from llama4sdk.guards.protocol import may_redact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llama4sdk.guards.guarding import Guarding
    from llama4sdk.guards.ruling import Ruling
    from llama4sdk.messages import Message
    from llama4sdk.request import Request
    from llama4sdk.verdict import Redaction

_AT_ONCE: Final = 8  # messages that are judged at the same time: a long history is no flood of checks


class Admission:
    """The input of one request, to be judged.

    Args:
        guarding: The guards.
        request: The request.
        said: The messages before the request's, in a session.

    Raises:
        GuardUnavailable: For a prompt of token ids.
    """

    def __init__(self, guarding: Guarding, request: Request, said: Sequence[Message] = ()) -> None:
        self.request = guarding.inspected.applied(request)
        """The request, with everything replaced that was replaced before."""
        self._guarding = guarding
        self._items = self._items_of(said)

    @property
    def goes_first(self) -> bool:
        """Whether the input is judged before the backend gets it, rather than beside it.

        So it is for tools' results, and where a guard may replace text: it must not leave the process.
        """
        stages = {placed.item.stage for placed in self._items}
        if "tool_result" in stages and self._guarding.holds("tool_result"):
            return True
        return any(may_redact(guard) and stages.intersection(guard.stages) for guard in self._guarding.guards)

    async def admit(self, note: Callable[[Ruling], None] | None = None) -> Request:
        """Judge the input; return the request, with text replaced where a guard replaces it.

        Args:
            note: Takes the ruling on each message, where it is reported.

        Raises:
            GuardBlocked: A guard blocks a message.
            GuardUnavailable: A guard gives no verdict that counts, under `on_error="block"`.
        """
        rulings = await self._rulings()
        redactions: dict[int, Sequence[Redaction]] = {}
        for placed, ruling in zip(self._items, rulings, strict=True):
            if note is not None:
                note(ruling)
            if ruling.redactions:
                redactions[placed.place] = ruling.redactions
            if placed.message is not None:
                self._guarding.inspected.note(placed.message, ruling, salt=self.request.cache_salt)
        if isinstance(self.request.raw, str):
            raw = redacted(self.request.raw, 0, redactions.get(0, ()))
            return replace(self.request, raw=raw) if redactions else self.request
        return with_redactions(self.request, redactions) if redactions else self.request

    async def _rulings(self) -> list[Ruling]:
        rulings: dict[int, Ruling] = {}
        failures: dict[int, Exception] = {}
        room = anyio.Semaphore(_AT_ONCE, fast_acquire=True)

        async def judge(number: int, placed: Placed) -> None:
            async with room:
                try:
                    rulings[number] = await self._guarding.rule(placed.item)
                except Exception as error:  # noqa: BLE001 - raised below, in the order of the messages
                    failures[number] = error

        if len(self._items) == 1:
            await judge(0, self._items[0])
        else:
            async with anyio.create_task_group() as tasks:
                for number, placed in enumerate(self._items):
                    tasks.start_soon(judge, number, placed)
        for number, ruling in sorted(rulings.items()):
            placed = self._items[number]
            ruling.check(message=placed.place if placed.earlier else None)
        if failures:
            raise failures[min(failures)]
        if len(rulings) < len(self._items):
            raise GuardUnavailable("A check of the input was given up; ask again.", guard="all", stage="input")
        return [ruling for _, ruling in sorted(rulings.items())]

    def _items_of(self, said: Sequence[Message]) -> list[Placed]:
        request, policy = self.request, self._guarding.policy
        if request.raw is None:
            items = prompt_items(
                request,
                said,
                history=policy.history == "check",
                system=policy.system == "check",
                cleared=lambda message: self._guarding.inspected.holds(message, salt=request.cache_salt),
            )
            return sorted(items, key=lambda placed: placed.earlier)  # the last turn first
        if not isinstance(request.raw, str):
            raise GuardUnavailable("A prompt of token ids cannot be inspected by guards; send text.", guard="all",
                                   stage="input")  # fmt: skip
        return [Placed(0, None, raw_item(request, request.raw))]
