"""Characters that a person does not see and a model does: always checked, at no cost."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from llama4sdk.messages import SystemMessage
from llama4sdk.verdict import Stage, Verdict

if TYPE_CHECKING:
    from llama4sdk.guards.policy import OnHidden
    from llama4sdk.guards.protocol import Item

# Flags of regions are written in tag characters, behind a black flag, and end with a cancel tag (UTS 51).
_REGION_FLAG: Final = re.compile(
    "\U0001f3f4[\U000e0061-\U000e007a]{2}[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,3}\U000e007f"
)
_HIDDEN: Final = {
    "tag characters": re.compile("[\U000e0000-\U000e007f]"),
    "direction overrides": re.compile("[\u202a-\u202e\u2066-\u2069]"),
    # One belongs to a character; more of them in a row spell bytes.
    "variation selectors": re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2}"),
    # Joiners stand alone between letters or emoji; rows of characters without a width spell bits.
    "zero-width characters": re.compile("[\u200b-\u200d\u2060-\u2064\ufeff]{4}"),
}


class HiddenCharacters:
    """Reports characters that hide instructions or reorder text.

    Unicode tag characters, bidirectional overrides, and rows of variation selectors or of zero-width characters.

    Args:
        action: `flag` or `block`.
    """

    name = "hidden-characters"
    stages: tuple[Stage, ...] = ("input", "tool_call", "tool_result", "output")
    sees_images = False

    def __init__(self, action: OnHidden = "flag") -> None:
        self._action: OnHidden = action
        self.may_block = action == "block"

    async def check(self, item: Item) -> Verdict:
        """Return `flag`, or `block`, where the text holds such characters."""
        text = item.text
        if item.stage == "input":  # with which the instructions reach the model
            text = "\n".join([text, *(each.text for each in item.messages if isinstance(each, SystemMessage))])
        if text.isascii():
            return Verdict(coverage=item.inspected())
        text = _REGION_FLAG.sub("", text)
        kinds = tuple(kind for kind, pattern in _HIDDEN.items() if pattern.search(text))
        return Verdict(self._action if kinds else "allow", categories=kinds, coverage=item.inspected())

    async def selftest(self) -> None:
        """Do nothing: there is nothing that may be missing."""
