"""The guard: what a plugin author implements, and the item that it checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from llama4sdk.verdict import Coverage, Stage, Verdict

if TYPE_CHECKING:
    from collections.abc import Collection

    from llama4sdk.messages import Image, Message, ToolCall


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to be checked, with the conversation around it.

    Args:
        stage: Where it stands: a message of the user's, a call, a tool's result, or the answer.
        text: Its text, which the verdict's coverage counts: of a call, its name and its arguments as JSON.
        images: Its images. A guard whose `sees_images` is False gets none.
        messages: The conversation up to and including the item.
        call: The call, in stage `tool_call`.
        final: Whether the item is complete; False while an answer is still being written.
        request_id: The request's name.
    """

    stage: Stage
    text: str
    images: tuple[Image, ...] = ()
    messages: tuple[Message, ...] = ()
    call: ToolCall | None = None
    final: bool = True
    request_id: str = ""

    def inspected(self, *, windows: int = 1, files: int = 0) -> Coverage:
        """Return the coverage of a guard that inspected all of the item."""
        return Coverage.whole(characters=len(self.text), windows=windows, images=len(self.images), files=files)


@runtime_checkable
class Guard(Protocol):
    """Checks items of some stages.

    A verdict whose coverage is less than the item counts as an error of the guard, and so do an exception, a result
    that is no `Verdict`, and a check that outlasts the policy's timeout.

    Optional attributes: `sees_images` (default True); `may_block` (default True; False for a guard that only flags, for
    which no text is held back); `may_redact` (default False; True for a guard that replaces text, so that the backend
    gets the input after its verdict); `start()` and `aclose()`, async, called before the first use and with the end of
    the client.
    """

    @property
    def name(self) -> str:
        """Its name, in verdicts, errors and counts."""
        ...

    @property
    def stages(self) -> Collection[Stage]:
        """The stages whose items it checks."""
        ...

    async def check(self, item: Item) -> Verdict:
        """Return the verdict on one item; several may be checked at the same time."""
        ...

    async def selftest(self) -> object:
        """Check that a canary is caught and a benign text passes.

        Raises:
            Exception: It does not work; so does a result of False.
        """
        ...


def sees_images(guard: Guard) -> bool:
    """Return whether a guard inspects images."""
    return bool(getattr(guard, "sees_images", True))


def may_block(guard: Guard) -> bool:
    """Return whether a guard can do more than flag."""
    return bool(getattr(guard, "may_block", True))


def may_redact(guard: Guard) -> bool:
    """Return whether a guard announces that it replaces text."""
    return bool(getattr(guard, "may_redact", False))
