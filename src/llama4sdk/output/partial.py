"""The answer so far, while its JSON is still being written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json

if TYPE_CHECKING:
    from collections.abc import Collection

    from llama4sdk.output.find import Kind

_SPACE = re.compile(r"[ \t\r\n]*")
_IN_STRING = re.compile(r'[^"\\]*')
_SCALAR = re.compile(r"[-+.\w]+")
_LONG: Final = 8192  # characters from which on only larger changes are shown, to keep the work linear


class PartialReader:
    """Follows JSON in an answer and tells what is surely closed in it.

    A string counts when its last quote is there, a number when something follows it; an object or a list is
    shown with those of its parts that are closed.

    Args:
        kinds: What may open the value; single values have no parts to show.
    """

    def __init__(self, kinds: Collection[Kind]) -> None:
        self._openings = "".join({"object": "{", "array": "["}.get(kind, "") for kind in kinds)
        self._pieces: list[str] = []
        self._length = 0  # characters in the pieces
        self._closed = 0  # of these, up to the last part that is closed
        self._shown = 0  # the same when it was last shown
        self._stack: list[str] = []
        self._in_string = False
        self._escaped = False
        self._is_key = False
        self._in_scalar = False
        self._after_value = False
        self._closing = False
        self._before = ""  # the last character before the value, white space aside
        self.done = False
        """Whether the value is complete."""

    def feed(self, text: str) -> bool:
        """Take the next stretch of text in; return whether there is more to show than before."""
        place = 0
        while place < len(text) and not self.done:
            place = self._begin(text, place) if not self._stack else self._go_on(text, place)
        least = 0 if self.done or self._shown <= _LONG else self._shown // 16
        return self._closed > self._shown + least

    def value(self) -> Any:
        """Return the value so far, from its closed parts.

        Raises:
        ValueError: When it turns out to be no JSON; see `_give_up`.
        """
        self._shown = self._closed
        self._pieces = ["".join(self._pieces)]
        try:
            return from_json(self._pieces[0][: self._closed], allow_partial=True, allow_inf_nan=False)
        except ValueError:
            self._give_up()
            raise

    def _give_up(self, *, quoted: bool = False) -> None:
        """Leave a value that is no JSON: braces in prose are passed over, broken JSON ends the search."""
        self.done = quoted or self._closed > 0 or len(self._stack) > 1
        self._stack = []
        self._in_string = self._in_scalar = False

    def _begin(self, text: str, place: int) -> int:
        while place < len(text) and text[place] not in self._openings:
            self._before = self._before if text[place].isspace() else text[place]
            place += 1
        if place < len(text) and self._before == "[":
            self.done = True  # part of a list that was not asked for
        elif place < len(text):
            self._pieces, self._length, self._closed, self._shown = [], 0, 0, 0
            self._open(text[place])
            self._keep(text[place])
            place += 1
        return place

    def _keep(self, text: str) -> None:
        self._pieces.append(text)
        self._length += len(text)

    def _open(self, char: str) -> None:
        self._stack.append(char)
        self._is_key = char == "{"
        self._after_value = False

    def _go_on(self, text: str, place: int) -> int:
        if self._in_string:
            end = self._string(text, place)
        elif self._in_scalar:
            end = self._scalar(text, place)
        else:
            end = self._between(text, place)
        self._keep(text[place:end])
        if self._closing:
            self._closing = False
            self._closed = self._length
            self.done = not self._stack
        return end

    def _string(self, text: str, place: int) -> int:
        if self._escaped:
            self._escaped = False
            return place + 1
        match = _IN_STRING.match(text, place)
        end = match.end() if match else place
        if end == len(text):
            return end
        if text[end] == "\\":
            self._escaped = True
        else:
            self._in_string = False
            self._value_ends()
        return end + 1

    def _scalar(self, text: str, place: int) -> int:
        match = _SCALAR.match(text, place)
        end = match.end() if match else place
        if end < len(text):
            self._in_scalar = False
            self._value_ends()
        return end

    def _value_ends(self) -> None:
        if not self._is_key:
            self._after_value = self._closing = True

    def _between(self, text: str, place: int) -> int:
        match = _SPACE.match(text, place)
        place = match.end() if match else place
        if place == len(text):
            return place
        char = text[place]
        match char:
            case "}" | "]" if self._stack[-1] == {"}": "{", "]": "["}[char]:
                self._stack.pop()
                self._is_key = False
                self._value_ends()
            case "," if self._after_value:
                self._is_key = self._stack[-1] == "{"
                self._after_value = False
            case ":" if self._is_key:
                self._is_key = False
            case '"' if not self._after_value:
                self._in_string = True
            case "{" | "[" if not self._after_value and not self._is_key:
                self._open(char)
            case _ if _SCALAR.match(char) and not self._after_value and not self._is_key:
                self._in_scalar = True
            case _:
                self._give_up(quoted=char == "'")
                return place
        return place + 1
