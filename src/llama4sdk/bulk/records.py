"""The lines of a journal: what is kept of an outcome, as JSON.

    {"format": "llama4sdk.bulk/1", "model": "…"}
    {"key": "<SHA-256>", "index": 0, "reply": {"text": "…", "finish_reason": "stop", "usage": {…}, …}}
    {"key": "<SHA-256>", "index": 1, "error": {"kind": "Overloaded", "message": "…"}}

The first line stands again, with the model's name, where that was not known when the journal was begun. The prompt
itself is never among it. A typed answer is read anew out of its text.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter, ValidationError

from llama4sdk.errors import LlamaError
from llama4sdk.events import TokenLogprob
from llama4sdk.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4sdk.messages import ToolCall

FORMAT = "llama4sdk.bulk/1"
# What every journal begins with, whatever its model.
HEAD = f'{{"format": "{FORMAT}"'.encode()
_KEY = re.compile(r"[0-9a-f]{64}")


class DamagedError(Exception):
    """A line that is no record; it never leaves the journal."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a journal: which prompt it is about, and its reply when it has one."""

    key: str
    index: int
    reply: Mapping[str, Any] | None


def header_line(model: str) -> bytes:
    """Return the first line of a journal."""
    return _line({"format": FORMAT, "model": model})


def header_model(line: bytes) -> str:
    """Return the model that a first line names.

    Raises:
        DamagedError: When it is no first line of a journal.
    """
    fields = _fields(line)
    model = fields.get("model")
    if fields.get("format") != FORMAT or not isinstance(model, str):
        raise DamagedError
    return model


def reply_line(key: str, index: int, reply: Reply[Any]) -> bytes:
    """Return the line for a prompt that was answered."""
    return _line({"key": key, "index": index, "reply": _reply(reply)})


def error_line(key: str, index: int, error: LlamaError) -> bytes:
    """Return the line for a prompt that failed."""
    return _line({"key": key, "index": index, "error": {"kind": type(error).__name__, "message": str(error)}})


def read_record(line: bytes) -> Record:
    """Return what a line after the first says.

    Raises:
        DamagedError: When it is no such line.
    """
    fields = _fields(line)
    key, index, reply = fields.get("key"), fields.get("index"), fields.get("reply")
    if not isinstance(key, str) or not _KEY.fullmatch(key) or not isinstance(index, int):
        raise DamagedError
    if not isinstance(reply, dict) and not isinstance(fields.get("error"), dict):
        raise DamagedError
    return Record(key, index, cast("dict[str, Any] | None", reply))


def read_reply(fields: Mapping[str, Any]) -> Reply[Any]:
    """Return the reply that a record holds, but for its typed answer.

    Raises:
        DamagedError: When it holds none.
    """
    plain = {name: value for name, value in fields.items() if name not in ("logprobs", "output")}
    try:
        reply = _replies().validate_python(plain)
        return replace(reply, logprobs=tuple(_read_token(token) for token in fields.get("logprobs", ())))
    except (ValidationError, LlamaError, LookupError, TypeError, ValueError, AttributeError):
        raise DamagedError from None


@cache
def _replies() -> TypeAdapter[Reply[Any]]:
    # Made when first needed: it takes a few milliseconds, and most programs need none.
    return TypeAdapter(Reply)


def _line(fields: dict[str, object]) -> bytes:
    # ASCII holds any text, lone surrogates too, and has one line end only.
    return json.dumps(fields).encode("ascii") + b"\n"


def _fields(line: bytes) -> dict[str, object]:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        raise DamagedError from None
    if not isinstance(value, dict):
        raise DamagedError
    return cast("dict[str, object]", value)


def _reply(reply: Reply[Any]) -> dict[str, object]:
    record: dict[str, object] = {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "usage": asdict(reply.usage),
        "tool_calls": [_call(call) for call in reply.tool_calls],
        "logprobs": [_token(token) for token in reply.logprobs],
        "request_id": reply.request_id,
        "backend": reply.backend,
        "model": reply.model,
    }
    return {name: value for name, value in record.items() if value not in ([], "")}


def _call(call: ToolCall) -> dict[str, object]:
    return {"name": call.name, "arguments": call.arguments, "id": call.id}


def _token(token: TokenLogprob) -> dict[str, object]:
    # JSON has no infinity: a token that cannot come has null.
    logprob = token.logprob if math.isfinite(token.logprob) else None
    fields: dict[str, object] = {"text": token.text, "logprob": logprob, "token_id": token.token_id}
    return {**fields, "top": [_token(other) for other in token.top]} if token.top else fields


def _read_token(fields: Mapping[str, Any]) -> TokenLogprob:
    logprob = -math.inf if fields["logprob"] is None else float(fields["logprob"])
    top = tuple(_read_token(other) for other in fields.get("top", ()))
    return TokenLogprob(str(fields["text"]), logprob, fields.get("token_id"), top)
