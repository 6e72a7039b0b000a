"""Bytes of a server-sent event stream → the data of its events: pure and incremental.

Lines end at LF, CR or CRLF and at nothing else (U+2028 and U+0085 are ordinary characters), wherever the
reads happen to cut them. The form is that of the HTML standard, section "Server-sent events", with two
allowances for real servers: a last event without its blank line counts, and llama.cpp's `error:` field is
read as an error event.
"""

from __future__ import annotations

import re

from llama4sdk.errors import ProtocolError

MAX_EVENT = 1 << 20  # bytes; the longest legitimate event holds a whole answer's log-probabilities

_LINE_END = re.compile(rb"[\r\n]")
_BOM = b"\xef\xbb\xbf"
_DATA = b"data: "
_BLANK = b"\n\n"


class SseParser:
    """Cuts a byte stream into the data of its events.

    Args:
        max_event: Most bytes that one event, or one line of any kind, may take.
    """

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._line = bytearray()  # the line under way, without its end
        self._data: list[bytes] = []  # the data lines of the event under way
        self._size = 0  # bytes in _data
        self._after_cr = False  # the next byte, if LF, belongs to the line end already seen
        self._at_start = True  # a byte order mark may still come

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take bytes in and return the data of the events that they complete.

        Raises:
            ProtocolError: When an event grows beyond the cap.
        """
        events: list[bytes] = []
        if b"\r" not in chunk and not self._after_cr:
            if self._line or self._data or self._at_start:  # the first event is the only one that began before
                begun = chunk.find(_BLANK) + len(_BLANK) if _BLANK in chunk else len(chunk)
                self._take_any(chunk[:begun], events)
                chunk = chunk[begun:]
            chunk = self._take_plain(chunk, events)
        if chunk:
            self._take_any(chunk, events)
        return events

    def close(self) -> list[bytes]:
        """Return the data of a last event that was not ended by a blank line."""
        events: list[bytes] = []
        if self._line:
            self._end_line(events)
        self._end_event(events)
        return events

    def _take_plain(self, chunk: bytes, events: list[bytes]) -> bytes:
        """Take whole events of one `data:` line each, and return what is left.

        Nearly every read of nearly every server holds nothing else; the general way is many times slower.
        """
        if self._line or self._data or not chunk.startswith(_DATA):
            return chunk
        if chunk.find(b"\n") == len(chunk) - len(_BLANK) and chunk.endswith(_BLANK) and len(chunk) <= self._max_event:
            events.append(chunk[len(_DATA) : -len(_BLANK)])  # one event
            return b""
        end = chunk.rfind(_BLANK) + len(_BLANK)
        plain = chunk[len(_DATA) : end - len(_BLANK)].split(_BLANK + _DATA)
        if end < len(_BLANK) or chunk.count(b"\n", 0, end) != 2 * len(plain):
            return chunk  # no event is complete, or one has other lines
        if len(chunk) > self._max_event and max(map(len, plain)) + len(_DATA) > self._max_event:
            self._too_long()
        events += plain
        return chunk[end:]

    def _take_any(self, chunk: bytes, events: list[bytes]) -> None:
        position = 0
        if self._after_cr and chunk:
            self._after_cr = False
            position = 1 if chunk.startswith(b"\n") else 0
        while line_end := _LINE_END.search(chunk, position):
            self._line += chunk[position : line_end.start()]
            position = line_end.end()
            if line_end[0] == b"\r":
                self._after_cr = position == len(chunk)
                position += 1 if chunk.startswith(b"\n", position) else 0
            self._end_line(events)
        self._line += chunk[position:]
        self._check_size()

    def _end_line(self, events: list[bytes]) -> None:
        self._check_size()
        line = bytes(self._line)
        self._line.clear()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            self._end_event(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"error":
            value = b'{"error":' + (value or b"null") + b"}"
        elif name != b"data":
            return  # a comment (no name), or a field without a meaning here
        self._data.append(value)
        self._size += len(value)

    def _end_event(self, events: list[bytes]) -> None:
        if self._data:
            events.append(b"\n".join(self._data) if len(self._data) > 1 else self._data[0])
            self._data.clear()
            self._size = 0

    def _check_size(self) -> None:
        if len(self._line) + self._size > self._max_event:
            self._too_long()

    def _too_long(self) -> list[bytes]:
        self._line.clear()
        self._data.clear()
        raise ProtocolError(
            f"The server sent an event of more than {self._max_event:,} bytes; no legitimate one is so long."
        )
