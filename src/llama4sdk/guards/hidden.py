"""Characters that a person does not see and a model does: always checked, at no cost."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from llama4sdk.verdict import Stage, Verdict

if TYPE_CHECKING:
    from llama4sdk.guards.policy import OnHidden
    from llama4sdk.guards.protocol import Item

# Flags of regions are written in tag characters, behind a black flag, and end with a cancel tag (UTS 51).
_REGION_FLAG: Final = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")
_HIDDEN: Final = {
    "tag characters": re.compile("[\U000e0000-\U000e007f]"),
    "direction overrides": re.compile("[\u202a-\u202e\u2066-\u2069]"),
}


class HiddenCharacters:
    """Reports Unicode tag characters, which hide instructions, and bidirectional overrides, which reorder text.

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
        if text.isascii():
            return Verdict(coverage=item.inspected())
        text = _REGION_FLAG.sub("", text)
        kinds = tuple(kind for kind, pattern in _HIDDEN.items() if pattern.search(text))
        return Verdict(self._action if kinds else "allow", categories=kinds, coverage=item.inspected())

    async def selftest(self) -> None:
        """Do nothing: there is nothing that may be missing."""
