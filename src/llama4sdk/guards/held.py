"""Events of an answer that are held back until they are cleared: pure, without tasks or time."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from llama4sdk.events import (
    Done,
    Event,
    GuardFlag,
    Progress,
    Started,
    Switched,
    TextDelta,
    ToolCallDelta,
    ToolCallReady,
    ToolCallStarted,
    UsageUpdate,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama4sdk.messages import ToolCall
    from llama4sdk.verdict import Redaction

_SENTENCE_END: Final = re.compile(r"[.!?…][\"'”’)\]]*\s|[。！？]|\n")


class Held:
    """Holds events back, in order.

    Token counts, progress and reports of guards pass as soon as they are in front. Text passes up to the cleared
    offset, a tool call when it is cleared as a whole, the end when everything is.

    Args:
        at_once: Whether text passes as soon as the input is admitted, before it is cleared.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.answer = ""
        """The answer as the backend gives it, in which all offsets count."""
        self.cleared = 0
        self.released = 0
        """Offset of the answer up to which it is out."""
        self.admitted = False
        """Whether the input was cleared."""
        self.complete = False
        """Whether everything was cleared, the end included."""
        self.ended = False
        """Whether the end is among the events."""
        self.epoch = 0
        """Counts withdrawals of the answer."""
        self._at_once = at_once
        self._redactions: tuple[Redaction, ...] = ()
        self._queue: deque[tuple[Event, int]] = deque()
        self._calls: dict[int, ToolCall] = {}
        self._arguments: dict[int, str] = {}
        self._cleared_calls: set[int] = set()

    def add(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case TextDelta():
                self.answer += event.text
            case ToolCallStarted():
                self._arguments.setdefault(event.index, event.name + " ")
            case ToolCallDelta():
                self._arguments[event.index] = self._arguments.get(event.index, "") + event.arguments
            case ToolCallReady():
                self._calls[event.index] = event.call
                self._arguments.pop(event.index, None)
            case Switched() if event.withdrawn:
                self._withdraw()
            case Done():
                self.ended = True
            case _:
                pass
        self._queue.append((event, len(self.answer)))

    def report(self, flag: GuardFlag) -> None:
        """Put a guard's report in front."""
        self._queue.appendleft((flag, self.released))

    @property
    def replaced(self) -> str:
        """The answer with everything replaced that a guard replaces so far."""
        return redacted(self.answer, 0, self._redactions)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The complete calls."""
        return tuple(call for _, call in sorted(self._calls.items()))

    @property
    def waiting_for_reader(self) -> int:
        """Characters that may leave and were not taken; none while the event in front may not leave yet."""
        if not self._queue or not self._passes(*self._queue[0]):
            return 0
        return (len(self.answer) if self._at_once else self.cleared) - self.released

    def take(self) -> list[Event]:
        """Return the events that may leave, in order, and hold them no longer."""
        events: list[Event] = []
        while self._queue and self._passes(*self._queue[0]):
            event, _ = self._queue.popleft()
            if isinstance(event, TextDelta):
                start = self.released
                self.released += len(event.text)
                event = self._redacted(event, start)
                if not event.text:  # all of it was replaced
                    continue
            events.append(event)
        return events

    def calls_to_check(self) -> list[tuple[int, ToolCall]]:
        """Return the complete calls that are not cleared yet, by index."""
        return [(index, call) for index, call in self._calls.items() if index not in self._cleared_calls]

    def unfinished_calls(self) -> dict[int, str]:
        """Return the text of calls that began and did not end, by index."""
        return {index: text for index, text in self._arguments.items() if index not in self._cleared_calls}

    def clear_call(self, index: int) -> None:
        """Let the events of a call pass."""
        self._cleared_calls.add(index)

    def clear(self, offset: int, redactions: Sequence[Redaction] = ()) -> None:
        """Let text pass up to an offset, from now on with stretches replaced.

        A stretch may grow with the answer, also behind its beginning that was replaced and is out.
        """
        if redactions:
            self._redactions = merged([*self._redactions, *redactions])
        self.cleared = max(self.cleared, offset)

    def is_out(self, redaction: Redaction) -> bool:
        """Return whether some of a stretch is out, and was not replaced."""
        end = min(redaction.end, self.released)
        return redaction.start < end and not any(
            one.start <= redaction.start and end <= one.end for one in self._redactions
        )

    def boundary(self, checked: int, overlap: int) -> int:
        """Return the offset up to which a check of the first `checked` characters clears the answer.

        The end of the last sentence, so that no harm is released in halves; without one, all but an overlap.
        """
        ends = [end.end() for end in _SENTENCE_END.finditer(self.answer, self.cleared, checked)]
        return ends[-1] if ends else max(self.cleared, checked - overlap)

    def sentence_ends_behind(self, offset: int) -> bool:
        """Return whether a sentence ends behind an offset."""
        return _SENTENCE_END.search(self.answer, max(0, offset - 1)) is not None

    def _passes(self, event: Event, end: int) -> bool:
        match event:
            case Started() | Progress() | UsageUpdate() | GuardFlag():
                return True
            case TextDelta():
                return self.admitted and (self._at_once or end <= self.cleared)
            case ToolCallStarted() | ToolCallDelta() | ToolCallReady():
                return self.admitted and event.index in self._cleared_calls
            case Done():
                return self.complete
            case _:
                return self.admitted and (self._at_once or end <= self.cleared)

    def _withdraw(self) -> None:
        kept = [
            each for each in self._queue if isinstance(each[0], Started | Progress | UsageUpdate | GuardFlag | Switched)
        ]
        self._queue = deque((event, 0) for event, _ in kept)
        self.answer, self.cleared, self.released = "", 0, 0
        self._redactions = ()
        self._calls, self._arguments, self._cleared_calls = {}, {}, set()
        self.epoch += 1

    def _redacted(self, event: TextDelta, start: int) -> TextDelta:
        text = redacted(event.text, start, self._redactions)
        return event if text == event.text else replace(event, text=text, logprobs=())


def merged(redactions: Iterable[Redaction]) -> tuple[Redaction, ...]:
    """Return stretches in order, those that overlap joined under the first's replacement."""
    joined: list[Redaction] = []
    for one in sorted(redactions, key=lambda each: (each.start, -each.end)):
        if joined and one.start < joined[-1].end:
            joined[-1] = replace(joined[-1], end=max(joined[-1].end, one.end))
        else:
            joined.append(one)
    return tuple(joined)


def redacted(text: str, start: int, redactions: Sequence[Redaction]) -> str:
    """Return a stretch of a text with its part of the redactions applied.

    Args:
        text: The stretch.
        start: Its offset in the text that the redactions count in.
        redactions: In order, without overlaps. A replacement stands in the stretch where its redaction begins.
    """
    end = start + len(text)
    pieces: list[str] = []
    place = start
    for one in redactions:
        if one.end <= start or one.start >= end:
            continue
        pieces.append(text[place - start : max(place, one.start) - start])
        if one.start >= start:
            pieces.append(one.replacement)
        place = min(max(place, one.end), end)
    pieces.append(text[place - start :])
    return "".join(pieces)
