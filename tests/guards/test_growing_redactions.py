"""What is replaced in a stream stays replaced while the match grows, wherever the answer is cut."""

from __future__ import annotations

import pytest

from guards.guard_doubles import WordGuard
from llama4sdk import GuardBlocked, Llama4, TextDelta
from llama4sdk.events import Switched
from llama4sdk.guards import Guard, GuardPolicy, PatternGuard
from llama4sdk.guards.held import Held, merged
from llama4sdk.testing import ScriptedBackend
from llama4sdk.verdict import Redaction

KEY = "\n".join(f"MIIEpAIBAAKCAQEAxyzABCDEFGHabcdefgh{line:04d}qwertyuiop1234567890" for line in range(12))
PRIVATE = f"Here it is.\n-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----\nKeep it. Bye."
TICKETS = " ".join(f"See TICKET-{number:09d} now." for number in range(30)) + " Bye."


async def streamed(text: str, size: int, *guards: Guard) -> str:
    backend = ScriptedBackend([text[place : place + size] for place in range(0, len(text), size)])
    async with Llama4(backend, guards=guards) as llama, llama.stream("hi") as stream:
        return "".join([event.text async for event in stream if isinstance(event, TextDelta)])


@pytest.mark.parametrize("size", [1, 3, 7, 11])
async def test_no_part_of_a_longer_match_gets_out(size: int) -> None:
    tickets = await streamed(TICKETS, size, PatternGuard({"ticket": "TICKET-[0-9]+"}, action="redact"))
    assert tickets == " ".join(["See [ticket] now."] * 30) + " Bye."


async def test_no_line_of_a_private_key_gets_out() -> None:
    pytest.importorskip("detect_secrets")
    text = await streamed(PRIVATE, 13, PatternGuard(secrets=True, action="redact"))
    assert text == "Here it is.\n[secret]\nKeep it. Bye."


async def test_a_rule_sees_what_another_replaces() -> None:
    guards = [
        PatternGuard({"name": "(?<=name: )[A-Z][a-z]+"}, action="redact"),
        PatternGuard({"label": "secret name: "}, action="redact", name="labels"),
    ]
    assert await streamed("Hello. secret name: Johnny is here. ", 3, *guards) == "Hello. [label][name] is here. "


async def test_a_block_counts_the_characters_that_the_reader_has() -> None:
    for streaming in ("hold", "observe", "final"):
        backend = ScriptedBackend(["My KEY is fine so far. ", "Yes. ", "And a BOMB here. ", "More."])
        guards = [PatternGuard({"k": "KEY"}, action="redact", stages=["input"]), WordGuard()]
        async with Llama4(backend, guards=guards, guard_policy=GuardPolicy(streaming=streaming)) as llama:  # type: ignore[arg-type]
            stream = llama.stream("hi")
            with pytest.raises(GuardBlocked) as caught:
                async with stream:
                    await stream.result()
        assert caught.value.released_characters == len(stream.snapshot.text)


def test_a_withdrawn_answer_takes_its_replacements_along() -> None:
    held = Held()
    held.admitted = True
    held.add(TextDelta("a secret"))
    held.clear(8, [Redaction(2, 8, "*")])
    held.add(Switched("other", "failed", withdrawn=True))
    held.add(TextDelta("a better"))
    held.clear(8)
    assert [event.text for event in held.take() if isinstance(event, TextDelta)] == ["a better"]


def test_a_stretch_that_is_out_counts_only_where_it_was_not_replaced() -> None:
    held = Held()
    held.admitted = True
    held.add(TextDelta("key: abc"))
    held.clear(8, [Redaction(5, 8)])
    held.take()
    assert not held.is_out(Redaction(5, 12))
    assert held.is_out(Redaction(4, 12))
    assert merged([Redaction(5, 8, "x"), Redaction(5, 12, "y"), Redaction(12, 13)])[0] == Redaction(5, 12, "y")
