"""Forms that would hang or crash a compiler are stopped in seconds, and at the request's deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from llama4_local.decoding import grammar
from llama4_local.decoding.grammar import Grammars
from llama4sdk import DeadlineExceeded, Deadlines, InvalidRequest, OutputSpec, Request, ToolSpec
from llama4sdk.messages import conversation
from llama4sdk.prompting import Tokenizer
from local.small_backends import asking, events_of, saved_chat, serving, text_of


def asked(**options: Any) -> Request:
    return Request(conversation("?"), **options)


def nested(depth: int, wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = wrap(schema)
    return schema


def chained(length: int) -> dict[str, Any]:
    links: dict[str, Any] = {f"a{n}": {"properties": {"y": {"$ref": f"#/$defs/a{n + 1}"}}} for n in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": {"type": "integer"}}}


HOSTILE: dict[str, dict[str, Any]] = {
    "backtracking": {"type": "string", "pattern": "^(a+)+$"},
    "repeats": {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
    "enum": {"enum": [f"x{n}" for n in range(90_000)]},
    "items": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}},
    "length": {"type": "string", "minLength": 10**6, "maxLength": 10**9},
    "itself": {"$ref": "#"},
    "empty": {"type": "integer", "minimum": 5, "maximum": 4},
    "fields": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1200)}},
    "impossible": {"type": "object", "properties": {}, "required": ["x"], "additionalProperties": False},
    "deep": nested(90, lambda inner: {"type": "object", "properties": {"x": inner}}),
    "lists": nested(90, lambda inner: {"type": "array", "items": inner}),
    "alternatives": nested(40, lambda inner: {"anyOf": [inner, {"type": "null"}]}),
    "chain": chained(1000),
    "states": {"type": "string", "pattern": "^(a|b)*a(a|b){60}$"},
    "spans": {"type": "string", "pattern": "^.{0,1000}x.{0,1000}$"},
    "same": {"anyOf": [{"type": "array", "items": {"anyOf": [{"type": "string"}] * 50}}] * 50},
    "patterns": {"patternProperties": {f"^.{{0,{n}}}a": {"type": "integer"} for n in range(40)}},
}


@pytest.mark.parametrize("place", ["output", "tool"])
@pytest.mark.parametrize("name", HOSTILE)
def test_fault_48_a_hostile_schema_compiles_or_is_refused(
    grammars: Grammars, tokenizer: Tokenizer, name: str, place: str
) -> None:
    schema = HOSTILE[name]
    tool = ToolSpec("f", "", {"type": "object", "properties": {"x": schema}, "$defs": schema.get("$defs", {})})
    request = asked(output=OutputSpec(schema)) if place == "output" else asked(tools=(tool,), tool_choice="f")
    begun = time.process_time()
    try:
        mask = grammars.mask_for(request)
        assert mask is not None
        for length in range(30):  # following it takes no time either
            mask.allowed(tokenizer.encode('["' + "aab" * 10)[:length])
    except InvalidRequest as error:
        assert len(str(error)) < 400
    assert time.process_time() - begun < 20, "it should take seconds"


def no_form_is_plain(_: str) -> bool:
    return False


async def test_fault_48_compiling_is_given_up_at_the_deadline_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hang(_: str) -> None:
        release.wait(60)

    slow = OutputSpec({"const": 1})
    monkeypatch.setattr(grammar, "_is_plain", no_form_is_plain)
    monkeypatch.setattr(grammar, "_try_out", hang)
    try:
        async with serving(saved_chat(tmp_path)) as backend:
            begun = anyio.current_time()
            with pytest.raises(DeadlineExceeded):
                await events_of(backend, asking(output=slow, deadlines=Deadlines(total=0.3)))
            assert anyio.current_time() - begun < 5
            assert text_of(await events_of(backend, asking())) != ""
    finally:
        release.set()


def test_fault_48_a_compiler_that_crashes_takes_nothing_along(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crash = tmp_path / "crash.py"
    crash.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(grammar, "_TRIAL", crash)
    monkeypatch.setattr(grammar, "_is_plain", no_form_is_plain)
    with pytest.raises(InvalidRequest, match="takes too much"):
        grammars.mask_for(asked(output=OutputSpec({"const": "never asked before"})))


def test_fault_48_a_compiler_that_hangs_is_ended(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hang = tmp_path / "hang.py"
    hang.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(grammar, "_TRIAL", hang)
    monkeypatch.setattr(grammar, "_PATIENCE", 0.5)
    monkeypatch.setattr(grammar, "_is_plain", no_form_is_plain)
    begun = time.monotonic()
    with pytest.raises(InvalidRequest, match="too long"):
        grammars.mask_for(asked(output=OutputSpec({"const": "never asked before either"})))
    assert time.monotonic() - begun < 20
