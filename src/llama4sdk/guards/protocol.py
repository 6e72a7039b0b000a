"""The guard: what a plugin author implements, and the item that it checks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, cast, get_args, runtime_checkable

from llama4sdk.checks import shown
from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import AssistantMessage
from llama4sdk.verdict import Coverage, Stage, Verdict

if TYPE_CHECKING:
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

    def copied(self, *, images: bool) -> Item:
        """Return a copy for one guard, whose changes reach neither the others nor the call that runs.

        Args:
            images: Whether it has the item's images.
        """
        pictures = self.images if images else ()
        if self.call is None:
            return replace(self, images=pictures)
        call = self.call.model_copy(deep=True)
        messages = (*self.messages[:-1], AssistantMessage("", tool_calls=(call,))) if self.messages else ()
        return replace(self, images=pictures, messages=messages, call=call)

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


def checked_stages(stages: object) -> tuple[Stage, ...]:
    """Return the stages of a guard.

    Raises:
        InvalidRequest: They are no collection of known stages, or there is none: the guard would check nothing.
    """
    known = get_args(Stage)
    if isinstance(stages, str) or not isinstance(stages, Collection):
        raise InvalidRequest(f"stages is a list of {', '.join(known)}; got {shown(stages)}.")
    named = tuple(cast("Collection[object]", stages))
    if not named or any(stage not in known for stage in named):
        raise InvalidRequest(f"stages is a list of at least one of {', '.join(known)}; got {shown(named)}.")
    return cast("tuple[Stage, ...]", named)


def sees_images(guard: Guard) -> bool:
    """Return whether a guard inspects images."""
    return bool(getattr(guard, "sees_images", True))


def may_block(guard: Guard) -> bool:
    """Return whether a guard can do more than flag."""
    return bool(getattr(guard, "may_block", True))


def may_redact(guard: Guard) -> bool:
    """Return whether a guard announces that it replaces text."""
    return bool(getattr(guard, "may_redact", False))
