"""The judging of a request's input: its last turn, message by message, at the same time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from llama4sdk.errors import GuardUnavailable
from llama4sdk.guards.held import redacted
from llama4sdk.guards.items import prompt_items, raw_item, with_redactions
from llama4sdk.guards.protocol import may_redact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llama4sdk.guards.guarding import Guarding
    from llama4sdk.guards.protocol import Item
    from llama4sdk.guards.ruling import Ruling
    from llama4sdk.request import Request
    from llama4sdk.verdict import Redaction


def admits_first(guarding: Guarding, request: Request) -> bool:
    """Return whether the input is judged before the backend gets it, rather than beside it.

    So it is for tools' results, and where a guard may replace text: it must not leave the process.
    """
    stages = {item.stage for item in _items(request).values()}
    if "tool_result" in stages and guarding.holds("tool_result"):
        return True
    return any(may_redact(guard) and stages.intersection(guard.stages) for guard in guarding.guards)


async def admit(guarding: Guarding, request: Request, note: Callable[[Ruling], None] | None = None) -> Request:
    """Judge the input of a request; return the request, with text replaced where a guard replaces it.

    Args:
        guarding: The guards.
        request: The request.
        note: Takes the ruling on each message, where it is reported.

    Raises:
        GuardBlocked: A guard blocks a message.
        GuardUnavailable: A guard gives no verdict that counts, under `on_error="block"`.
    """
    items = _items(request)
    rulings = await _rulings(guarding, items)
    redactions: dict[int, Sequence[Redaction]] = {}
    for place, ruling in sorted(rulings.items()):
        if note is not None:
            note(ruling)
        if ruling.redactions:
            redactions[place] = ruling.redactions
    if not redactions:
        return request
    if isinstance(request.raw, str):
        return replace(request, raw=redacted(request.raw, 0, redactions[0]))
    for place, stretches in redactions.items():
        guarding.replacements.remember(request.messages[place], stretches)
    return with_redactions(request, redactions)


async def _rulings(guarding: Guarding, items: dict[int, Item]) -> dict[int, Ruling]:
    rulings: dict[int, Ruling] = {}
    failures: dict[int, Exception] = {}

    async def judge(place: int, item: Item) -> None:
        try:
            rulings[place] = await guarding.rule(item)
        except Exception as error:  # noqa: BLE001 - raised below, in the order of the messages
            failures[place] = error

    if len(items) == 1:
        await judge(*next(iter(items.items())))
    else:
        async with anyio.create_task_group() as tasks:
            for place, item in items.items():
                tasks.start_soon(judge, place, item)
    for _, ruling in sorted(rulings.items()):
        ruling.check()
    if failures:
        raise failures[min(failures)]
    if len(rulings) < len(items):
        raise GuardUnavailable("A check of the input was given up; ask again.", guard="all", stage="input")
    return rulings


def _items(request: Request) -> dict[int, Item]:
    if request.raw is None:
        return prompt_items(request)
    if not isinstance(request.raw, str):
        raise GuardUnavailable("A prompt of token ids cannot be inspected by guards; send text.", guard="all",
                               stage="input")  # fmt: skip
    return {0: raw_item(request, request.raw)}
