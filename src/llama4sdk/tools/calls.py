"""Tool calls out of the text of an answer, as it arrives: one reader for every backend.

Understood are:

- a Python list of calls, `[f(a=1), g(b="x")]`, which is what Llama 4 is told to write;
- JSON objects, `{"name": "f", "parameters": {…}}` and `{"type": "function", "function": {…}}`, one or a list;
- `<function=f>{…}</function>`;
- any of these, or a bare `f(a=1)`, after `<|python_start|>`; any but the bare one in a fenced block.

Only functions that were declared count. Behind a call that was read, an item of the same list that cannot be read, or
that names another function, becomes a call with a `problem`, so that the model can be told. Everything else stays text,
and no text is lost, save white space and marks between calls, or between calls and the ends of the answer. Nothing is
evaluated.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from llama4sdk.call_arguments import arguments_of
from llama4sdk.errors import InvalidRequest
from llama4sdk.events import Event, TokenLogprob, ToolCallReady
from llama4sdk.messages import ToolCall
from llama4sdk.output.fitting import fit
from llama4sdk.output.json_schema import schema_of
from llama4sdk.tools.bad_items import ItemEnd, bad_call
from llama4sdk.tools.fences import FENCE, read_fence
from llama4sdk.tools.marks import CLOSING_MARKS, MARKS, OPENING_MARKS
from llama4sdk.tools.open_call import JsonCall, OpenCall, nowhere
from llama4sdk.tools.remaining import RemainingText
from llama4sdk.tools.source import NotACallError, Reading, Source
from llama4sdk.tools.values import Value, read_name, read_object, read_string, read_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llama4sdk.request import ToolSpec

MAX_CALLS: Final = 128
"""Calls in one answer; what follows them is text."""

_OPENER = re.compile(r"[\[{<`]")
# Before a call stands a space, the beginning, or a sign that quotes nothing and indexes nothing.
_NEVER_BEFORE = re.compile(r"[\w)\]`'\"$\\]")
_TAG: Final = "<function="
_TAG_END: Final = "</function>"
_KEYS = frozenset(
    f"{quote}{key}{quote}"
    for key in ("type", "name", "parameters", "arguments", "function", "id")
    for quote in ("'", '"')
)


class CallReader:
    """Reads the text of one answer, piece by piece.

    However the text is cut, the calls and the remaining text are the same. A call whose text breaks off or
    turns out to be malformed after `ToolCallStarted` never gets its `ToolCallReady`; its text comes as text.

    Args:
        tools: What was declared.
        ids: Beginning of the calls' ids; None for calls without ids.
    """

    def __init__(self, tools: Iterable[ToolSpec], *, ids: str | None = None) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._ids = ids
        self.next_index = 0
        """Index of the next call."""
        self.calls_read = 0
        """Calls that are complete."""
        self._source = Source()
        self._text = RemainingText(self._source)
        self._out: list[Event] = []
        self._open: OpenCall | None = None
        self._closers: frozenset[str] = frozenset()  # ends of the tag and the fence around the call just read
        self._reading = self._everything()

    def feed(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> list[Event]:
        """Take the next stretch of text in, and return the events that are certain now."""
        self._source.feed(text)
        self._text.arrived(len(text), logprobs)
        return self._run()

    def end(self) -> list[Event]:
        """Return the events of what was held back, now that nothing more comes."""
        self._source.feed("")
        self._source.closed = True
        return self._run()

    def call_beside(self) -> int:
        """Take note of a call that came beside the text, and return its index."""
        self._text.call_read()
        self.next_index += 1
        return self.next_index - 1

    def _run(self) -> list[Event]:
        next(self._reading, None)
        if self._open is not None:
            self._emit(self._open.events())
        self._emit(())
        events, self._out = self._out, []
        return events

    def _emit(self, events: Iterable[Event]) -> None:
        self._out.extend(self._text.events())
        self._out.extend(events)

    def _everything(self) -> Reading[None]:
        while (yield from self._prose()):
            yield from self._candidate()
        self._text.end()

    def _prose(self) -> Reading[bool]:
        """Read text up to the next character that may begin a call; return whether there is one."""
        source = self._source
        while (yield from source.peek()):
            match = _OPENER.search(source.text, source.pos)
            begin, source.pos = source.pos, match.start() if match else len(source.text)
            self._say(source.text[begin : source.pos])
            if match and (match[0] == "<" or self._may_begin(match[0])):
                return True
            if match:
                source.pos += 1
                self._say(match[0])
        return False

    def _say(self, text: str) -> None:
        if self._text.say(text):
            self._closers = frozenset()

    def _may_begin(self, opener: str) -> bool:
        if any(closer.startswith(opener) for closer in self._closers):
            return True
        if self.calls_read >= MAX_CALLS:
            return False
        before = self._text.last
        return before in ("", "\n") if opener == "`" else not _NEVER_BEFORE.match(before)

    def _candidate(self) -> Reading[None]:
        self._source.begin()
        try:
            yield from self._marked_or_not()
        except NotACallError:
            if self._open is not None and not self._open.shown and self.next_index == self._open.index + 1:
                self.next_index -= 1
            self._open = None
        self._say(self._source.take())

    def _marked_or_not(self) -> Reading[None]:
        source = self._source
        match source.text[source.pos]:
            case "`":
                yield from self._fenced()
            case "<":
                calls = {_TAG} if self._may_begin("<") else set[str]()
                mark = yield from source.one_of({*MARKS, *self._closers, *calls})
                if mark in self._closers:
                    self._drop()
                elif mark == _TAG:
                    yield from self._tagged()
                elif mark in OPENING_MARKS:
                    yield from self._calls(bare=True)
            case _:
                yield from self._calls()

    def _fenced(self) -> Reading[None]:
        if FENCE in self._closers:
            yield from self._source.one_of({FENCE})
            self._closers = frozenset()
            return self._drop()
        yield from read_fence(self._source)
        yield from self._calls()
        self._closers |= {FENCE}
        return None

    def _calls(self, *, bare: bool = False) -> Reading[None]:
        """Read calls in one of the forms, without a mark or fence around them."""
        char = yield from self._source.skip_space()
        while bare and char == "<":
            mark = yield from self._source.one_of({_TAG, *MARKS})
            if mark == _TAG:
                return (yield from self._tagged())
            if mark in CLOSING_MARKS:
                raise NotACallError
            char = yield from self._source.skip_space()
        match char:
            case "[":
                yield from self._list()
            case "{":
                yield from self._json_call()
            case "<":
                yield from self._source.one_of({_TAG})
                yield from self._tagged()
            case _ if bare:
                yield from self._bare()
            case _:
                raise NotACallError

    def _list(self) -> Reading[None]:
        source = self._source
        source.pos += 1
        if (yield from source.skip_space()) == "]":
            raise NotACallError
        read = 0
        while (char := (yield from source.skip_space())) != "]":
            try:
                yield from (self._json_call() if char == "{" else self._call())
                read += 1
            except NotACallError:
                if not read or self.calls_read >= MAX_CALLS:
                    raise  # a list in prose
                yield from self._bad_item()
            char = yield from source.skip_space()
            if char == ",":
                source.pos += 1
            elif char != "]":
                raise NotACallError
        source.pos += 1
        self._drop()

    def _bad_item(self) -> Reading[None]:
        """Read over an item of a list of calls that is none, and report it as a call with a problem."""
        source, end = self._source, ItemEnd()
        item = source.take()
        source.begin()
        for char in item.lstrip(" \t\r\n,"):
            end.ends_at(char)
        while not end.ends_at(char := (yield from source.peek())):
            if not char:
                self._say(item)
                raise NotACallError
            item += char
            source.pos += 1
        call = self._open or self._begin("unread")
        self._open = None
        bad = bad_call(item, self._tools, call.id)
        if bad is not None:
            self._emit([ToolCallReady(call.index, bad)])
            self.calls_read += 1
        self._drop()

    def _bare(self) -> Reading[None]:
        while True:
            yield from self._call()
            char = yield from self._source.skip_space()
            if char and char in ",;":
                self._source.pos += 1
                char = yield from self._source.skip_space()
            if not (char.isalpha() or char == "_"):
                return

    def _call(self) -> Reading[None]:
        """Read `name(argument=value, …)`."""
        source = self._source
        name = yield from source.name(self._tools)
        yield from source.expect("(")
        call = self._begin(name)
        arguments: dict[str, Value] = {}
        while (yield from source.skip_space()) != ")":
            key = yield from read_name(source)
            yield from source.expect("=")
            if key in arguments:
                raise NotACallError
            call.key(key)
            arguments[key] = yield from read_value(source, call.write)
            char = yield from source.skip_space()
            if char == ",":
                source.pos += 1
            elif char != ")":
                raise NotACallError
        source.pos += 1
        call.write("}" if arguments else "{}")
        self._ready(call, arguments)

    def _tagged(self) -> Reading[None]:
        """Read what follows `<function=`."""
        source = self._source
        call = self._begin((yield from source.name(self._tools)))
        char = yield from source.skip_space()
        if char == ">":
            source.pos += 1
            char = yield from source.skip_space()
        arguments: dict[str, Value] = {}
        if char == "{":
            arguments = yield from read_object(source, call.write)
        else:
            yield from source.one_of({_TAG_END})
            call.write("{}")
        self._ready(call, arguments)
        self._closers |= {_TAG_END}

    def _json_call(self) -> Reading[None]:
        fields = JsonCall()
        yield from self._json_fields(fields)
        call = self._open
        if call is None or (fields.arguments is None and not fields.typed):
            raise NotACallError
        if fields.arguments is None:
            call.write("{}")
        self._ready(call, fields.arguments or {})

    def _json_fields(self, fields: JsonCall, *, nested: bool = False) -> Reading[None]:
        source = self._source
        source.pos += 1
        seen: set[str] = set()
        while (yield from source.skip_space()) != "}":
            key = (yield from source.one_of(_KEYS))[1:-1]
            if key in seen:
                raise NotACallError
            seen.add(key)
            yield from source.expect(":")
            char = yield from source.skip_space()
            if key == "function" and char == "{" and not nested:
                yield from self._json_fields(fields, nested=True)
            else:
                yield from self._json_field(key, fields)
            char = yield from source.skip_space()
            if char == ",":
                source.pos += 1
            elif char != "}":
                raise NotACallError
        source.pos += 1

    def _json_field(self, key: str, fields: JsonCall) -> Reading[None]:
        source = self._source
        match key:
            case "type":
                yield from source.one_of({'"function"', "'function'"})
                fields.typed = True
            case "id":
                if source.text[source.pos : source.pos + 1] not in ("'", '"'):
                    raise NotACallError
                yield from read_string(source, nowhere)
            case "name" | "function":
                quote = yield from source.one_of({'"', "'"})
                name = yield from source.name(self._tools)
                yield from source.one_of({quote})
                if self._open is not None:
                    raise NotACallError
                self._begin(name).write(fields.written)
            case _:
                if fields.arguments is not None:
                    raise NotACallError
                fields.arguments = yield from self._json_arguments(fields)

    def _json_arguments(self, fields: JsonCall) -> Reading[dict[str, Value]]:
        source = self._source

        def write(text: str) -> None:
            if self._open is not None:
                self._open.write(text)
            else:
                fields.write(text)

        char = yield from source.peek()
        if char == "{":
            return (yield from read_object(source, write))
        if char in ("'", '"'):  # an object as a JSON string, as chat servers write it
            text = yield from read_string(source, nowhere)
            arguments, problem = arguments_of(text)
            if problem is not None:
                raise NotACallError
            write(json.dumps(arguments, ensure_ascii=False))
            return arguments
        yield from source.one_of({"null", "None"})
        write("{}")
        return {}

    def _begin(self, name: str) -> OpenCall:
        if self.calls_read >= MAX_CALLS:
            raise NotACallError
        call_id = None if self._ids is None else f"{self._ids}{self.next_index}"
        self._open = OpenCall(self.next_index, name, call_id)
        self.next_index += 1
        return self._open

    def _ready(self, call: OpenCall, arguments: Mapping[str, Value]) -> None:
        fitted, misfits = fit(schema_of(self._tools[call.name]), arguments)
        try:
            ready = ToolCall(call.name, arguments if misfits else fitted, call.id)
        except InvalidRequest:
            raise NotACallError from None
        self._emit([*call.events(), ToolCallReady(call.index, ready)])
        self._open = None
        self.calls_read += 1
        self._text.call_read()
        self._drop()

    def _drop(self) -> None:
        """Leave out what was read since the mark, and set the mark here."""
        self._source.take()
        self._source.begin()
