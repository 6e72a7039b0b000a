"""A call that is being read: what can be shown of it before it is complete."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama4sdk.events import Event, ToolCallDelta, ToolCallStarted

if TYPE_CHECKING:
    from llama4sdk.tools.values import Value


class OpenCall:
    """A call whose arguments are being read; it shows itself with their first value."""

    def __init__(self, index: int, name: str, id: str | None) -> None:
        self.index = index
        self.name = name
        self.id = id
        self.shown = False
        self._started = False
        self._keys = 0
        self._pieces: list[str] = []

    def key(self, key: str) -> None:
        """Take the name of the next argument in."""
        self._pieces.append(f"{', ' if self._keys else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        self._keys += 1

    def write(self, text: str) -> None:
        """Take the next stretch of the arguments in, as JSON."""
        if text:
            self.shown = True
            self._pieces.append(text)

    def events(self) -> list[Event]:
        """Return what can be said of the call now."""
        if not self.shown or not self._pieces:
            return []
        begun = [] if self._started else [ToolCallStarted(self.index, self.name, self.id)]
        self._started = True
        delta = ToolCallDelta(self.index, "".join(self._pieces))
        self._pieces = []
        return [*begun, delta]


@dataclass(slots=True)
class JsonCall:
    """The fields of a JSON call, which may come in any order."""

    arguments: dict[str, Value] | None = None
    typed: bool = False
    pieces: list[str] = field(default_factory=list[str])

    def write(self, text: str) -> None:
        """Take arguments in that come before the name."""
        self.pieces.append(text)

    @property
    def written(self) -> str:
        """The arguments that came before the name, as JSON."""
        return "".join(self.pieces)


def nowhere(_: str) -> None:
    """Take no text in."""
