"""The model's marks around tool calls that a server parsed but left in the text: pure and incremental."""

from __future__ import annotations

import re

MARKS = ("<|python_start|>", "<|python_end|>", "<|python_tag|>", "<|eom|>", "<|eot|>", "<|eom_id|>", "<|eot_id|>")
_MARK = re.compile("|".join(re.escape(mark) for mark in MARKS))
_LONGEST = max(len(mark) for mark in MARKS)


class MarkFilter:
    """Leaves out marks between calls, and between calls and the ends of the answer; other text passes unchanged.

    A mark is held back, with the white space behind it, until the next event: before a call that the server parsed and
    at the end of the answer it is dropped; after such a call too; before other text it is text, since it may open a
    call that the server left there.
    """

    def __init__(self) -> None:
        self._held = ""  # marks and white space, or the beginning of a mark
        self._after_call = False

    def feed(self, text: str) -> str:
        """Return the text that is certain now."""
        if not self._held and not self._after_call and "<" not in text:
            return text
        text, self._held = self._held + text, ""
        begin = _beginning_of_marks(text)
        if begin < len(text):
            text, self._held = text[:begin], text[begin:]
        if text and self._after_call:
            text = self._without_leading_marks(text)
        return text

    def call(self) -> None:
        """Take note of a call: marks before it are dropped."""
        self._held = self._unfinished(_MARK.sub("", self._held))
        self._after_call = True

    def close(self) -> str:
        """Return the text at the end of the answer: the beginning of a mark that never became one."""
        held, self._held = self._held, ""
        return held if _MARK.search(held) is None else self._unfinished(_MARK.sub("", held))

    @staticmethod
    def _unfinished(rest: str) -> str:
        return rest if rest.strip() else ""

    def _without_leading_marks(self, text: str) -> str:
        """Return text that follows a call without the marks that close that call."""
        rest = text.lstrip()
        while (match := _MARK.match(rest)) is not None and "start" not in match[0] and "tag" not in match[0]:
            text = text[: len(text) - len(rest)] + rest[match.end() :]
            rest = text.lstrip()
        if rest:
            self._after_call = False
        return text


def _beginning_of_marks(text: str) -> int:
    """Return where the run of marks and white space at the end of a text begins; its length where there is none."""
    end = len(text)
    opening = text.rfind("<", max(0, end - _LONGEST))
    if opening >= 0 and any(mark.startswith(text[opening:]) for mark in MARKS) and text[opening:] not in MARKS:
        end = opening  # a mark that is still to be completed
    begin = end
    while True:
        bare = len(text[:begin].rstrip())
        mark = next((mark for mark in MARKS if text.endswith(mark, 0, bare)), None)
        if mark is None:
            return begin
        begin = bare - len(mark)
