"""Guards for tests: each does one thing, right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection

import anyio

from llama4sdk.guards import Coverage, Item, Redaction, Stage, Verdict

EVERY: tuple[Stage, ...] = ("input", "tool_call", "tool_result", "output")


class WordGuard:
    """Comes to an action where a word occurs."""

    sees_images = False

    def __init__(
        self,
        word: str = "BOMB",
        *,
        action: str = "block",
        stages: Collection[Stage] = EVERY,
        name: str = "word",
        announced: bool = True,
        seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.name = name
        self.stages = stages
        self.may_redact = action == "redact" and announced
        self.items: list[Item] = []
        self.answered: list[Item] = []
        self._word, self._action, self._seconds = word, action, seconds

    async def check(self, item: Item) -> Verdict:
        self.items.append(item)
        await anyio.sleep(self._seconds())
        self.answered.append(item)
        place = item.text.find(self._word)
        if place < 0:
            return Verdict(coverage=item.inspected())
        stretches = (Redaction(place, place + len(self._word), "***"),) if self._action == "redact" else ()
        return Verdict(
            self._action,  # type: ignore[arg-type]
            categories=("danger",),
            coverage=item.inspected(),
            redactions=stretches,
        )

    async def selftest(self) -> None:
        return None


class BrokenGuard:
    """Gives no verdict that counts, in one of many ways."""

    sees_images = False
    stages = EVERY

    def __init__(self, way: str, stages: Collection[Stage] = EVERY) -> None:
        self.name = "broken"
        self.stages = tuple(stages)
        self._way = way

    async def check(self, item: Item) -> Verdict:
        size = len(item.text)
        wrong: dict[str, object] = {
            "covers less": Verdict(coverage=Coverage(characters=(max(0, size - 1), size))),
            "understates the item": Verdict(coverage=Coverage.whole(characters=max(0, size - 1))),
            "covers fewer windows": Verdict(coverage=Coverage((size, size), windows=(1, 2))),
            "covers fewer files": Verdict(coverage=Coverage((size, size), files=(0, 1))),
            "covers nothing": Verdict(),
            "garbage": "allow",
            "nothing": None,
            "reports an error": Verdict(status="error", coverage=item.inspected()),
            "waits forever": Verdict(status="waiting", coverage=Coverage((0, size))),
        }
        if self._way == "hangs":
            await anyio.sleep_forever()
        if self._way == "raises":
            raise RuntimeError("out of order")
        if self._way == "raises a group":
            raise ExceptionGroup("several", [RuntimeError("out of order")])
        return wrong.get(self._way, Verdict(coverage=item.inspected()))  # type: ignore[return-value]

    async def selftest(self) -> object:
        if self._way == "fails its self-test":
            raise RuntimeError("the canary was not caught")
        if self._way == "denies its self-test":
            return False
        if self._way == "hangs in its self-test":
            await anyio.sleep_forever()
        return None


WAYS = [
    "covers less",
    "understates the item",
    "covers fewer windows",
    "covers fewer files",
    "covers nothing",
    "hangs",
    "raises",
    "raises a group",
    "garbage",
    "nothing",
    "reports an error",
    "waits forever",
    "fails its self-test",
    "denies its self-test",
    "hangs in its self-test",
]
