"""Turns under guards: blocked, replaced, flagged, and held back until the verdict."""

from __future__ import annotations

import pytest

from guards.guard_doubles import WAYS, BrokenGuard, WordGuard
from llama4sdk import Done, GuardBlocked, GuardFlag, GuardUnavailable, InvalidRequest, Llama4, TextDelta, ToolCallReady
from llama4sdk.guards import GuardPolicy, PatternGuard
from llama4sdk.messages import ToolCall, UserMessage
from llama4sdk.testing import ScriptedBackend

QUICK = GuardPolicy(timeout=0.05, selftest_timeout=0.05)


async def test_a_harmless_turn_passes_with_its_verdicts() -> None:
    async with Llama4(ScriptedBackend("Hello there. How are you?"), guards=[WordGuard()]) as llama:
        reply = await llama.chat("Hi")
    assert reply.text == "Hello there. How are you?"
    assert {(one.guard, one.stage, one.action) for one in reply.guards} == {
        ("hidden-characters", "input", "allow"),
        ("word", "input", "allow"),
        ("hidden-characters", "output", "allow"),
        ("word", "output", "allow"),
    }
    assert all(one.coverage.complete and one.coverage.characters.inspected > 0 for one in reply.guards)  # type: ignore[attr-defined]


async def test_without_guards_nothing_is_checked() -> None:
    async with Llama4(ScriptedBackend("BOMB")) as llama:
        assert (await llama.chat("BOMB")).guards == ()


async def test_a_blocked_input_is_an_error_and_stops_the_generation() -> None:
    backend = ScriptedBackend("never read", pause=0.01)
    async with Llama4(backend, guards=[WordGuard()]) as llama:
        with pytest.raises(GuardBlocked) as caught:
            await llama.chat("Build a BOMB")
        assert backend.running == 0
        assert llama.guard_counts["word", "input", "block"] == 1
    error = caught.value
    assert (error.stage, error.guard, error.categories, error.released_characters) == ("input", "word", ("danger",), 0)
    assert "BOMB" not in str(error)


async def test_a_blocked_answer_releases_only_the_sentences_before_it() -> None:
    backend = ScriptedBackend("One sentence. Two sentences. Now a BOMB appears. The end.", pause=0.001)
    texts: list[str] = []
    async with Llama4(backend, guards=[WordGuard()]) as llama:
        with pytest.raises(GuardBlocked) as caught:
            async with llama.stream("Go on") as stream:
                async for text in stream.text():
                    texts.append(text)
        assert backend.running == 0
    released = "".join(texts)
    assert "One sentence. Two sentences. Now a BOMB".startswith(released)
    assert "BOMB" not in released
    assert caught.value.stage == "output"
    assert caught.value.released_characters == len(released)


@pytest.mark.parametrize("streaming", ["hold", "observe", "final"])
async def test_every_way_of_streaming_brings_the_same_answer(streaming: str) -> None:
    text = "A sentence. " * 200
    async with Llama4(
        ScriptedBackend(text),
        guards=[WordGuard()],
        guard_policy=GuardPolicy(streaming=streaming),  # type: ignore[arg-type]
    ) as llama:
        assert (await llama.chat("Go on")).text == text


async def test_final_releases_nothing_of_a_blocked_answer() -> None:
    backend = ScriptedBackend("Fine. " * 100 + "BOMB")
    async with Llama4(backend, guards=[WordGuard()], guard_policy=GuardPolicy(streaming="final")) as llama:
        with pytest.raises(GuardBlocked) as caught:
            async with llama.stream("Go on") as stream:
                async for event in stream:
                    assert not isinstance(event, TextDelta)
    assert caught.value.released_characters == 0


async def test_observe_streams_at_once_and_still_stops() -> None:
    backend = ScriptedBackend("Fine words. BOMB here. " + "More words. " * 500, pause=0.001)
    async with Llama4(backend, guards=[WordGuard()], guard_policy=GuardPolicy(streaming="observe")) as llama:
        with pytest.raises(GuardBlocked) as caught:
            await llama.chat("Go on")
        assert backend.running == 0
    assert caught.value.stage == "output"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", ["input", "output"])
async def test_a_guard_without_a_verdict_lets_nothing_through(way: str, stage: str) -> None:
    backend = ScriptedBackend("The answer. It is long.")
    guard = BrokenGuard(way, [stage])  # type: ignore[list-item]
    async with Llama4(backend, guards=[guard], guard_policy=QUICK) as llama:
        with pytest.raises(GuardUnavailable) as caught:
            async with llama.stream("Hi") as stream:
                async for event in stream:
                    assert not isinstance(event, TextDelta)
        assert backend.running == 0
    assert caught.value.guard == "broken"


@pytest.mark.parametrize("way", WAYS)
async def test_a_failing_guard_is_passed_over_only_when_asked_for(way: str) -> None:
    policy = GuardPolicy(timeout=0.05, selftest_timeout=0.05, on_error="allow")
    async with Llama4(ScriptedBackend("The answer."), guards=[BrokenGuard(way)], guard_policy=policy) as llama:
        async with llama.stream("Hi") as stream:
            flags = [event async for event in stream if isinstance(event, GuardFlag)]
        assert stream.snapshot.text == "The answer."
        assert {(flag.verdict.status, flag.verdict.stage) for flag in flags} == {
            ("error", "input"),
            ("error", "output"),
        }
        assert llama.guard_counts["broken", "input", "error allowed"] == 1


async def test_a_block_weighs_more_than_a_failure_of_another_guard() -> None:
    policy = GuardPolicy(on_error="allow")
    guards = [BrokenGuard("raises"), WordGuard()]
    async with Llama4(ScriptedBackend(), guards=guards, guard_policy=policy) as llama:
        with pytest.raises(GuardBlocked):
            await llama.chat("a BOMB")


@pytest.mark.parametrize("announced", [True, False])
async def test_replaced_input_never_reaches_the_backend_later(announced: bool) -> None:
    backend = ScriptedBackend("Noted.")
    guard = WordGuard("secret", action="redact", stages=["input"], announced=announced)
    async with Llama4(backend, guards=[guard]) as llama:
        reply = await llama.chat("my secret word")
        assert backend.requests[-1].messages[-1].text == "my *** word"
        await llama.chat([UserMessage("my secret word"), reply.message, UserMessage("and now?")])
        assert backend.requests[-1].messages[0].text == "my *** word"
    assert reply.text == "Noted."
    if announced:
        assert not any("secret" in message.text for request in backend.requests for message in request.messages)


@pytest.mark.parametrize("streaming", ["hold", "final"])
async def test_replaced_text_of_an_answer(streaming: str) -> None:
    text = "First a sentence. Then the secret comes. And so on. " * 3
    guard = PatternGuard({"hush": "secret"}, action="redact", stages=["output"])
    policy = GuardPolicy(streaming=streaming)  # type: ignore[arg-type]
    async with Llama4(ScriptedBackend(text), guards=[guard], guard_policy=policy) as llama:
        reply = await llama.chat("Go on")
    assert reply.text == text.replace("secret", "[hush]")
    assert {one.action for one in reply.guards if one.guard == "patterns"} == {"redact"}


async def test_a_flag_is_an_event_once_and_the_turn_goes_on() -> None:
    guard = WordGuard(action="flag")
    async with Llama4(ScriptedBackend("A BOMB. " * 100), guards=[guard]) as llama, llama.stream("Hi") as stream:
        flags = [event async for event in stream if isinstance(event, GuardFlag)]
    assert [(flag.verdict.guard, flag.verdict.action) for flag in flags] == [("word", "flag")]


@pytest.mark.parametrize("hidden", ["a\U000e0041b", "a\u202eb", "a\u2066b"])
async def test_hidden_characters_are_flagged_in_input_and_answer(hidden: str) -> None:
    async with Llama4(ScriptedBackend(hidden), guards=[]) as llama:
        reply = await llama.chat(hidden)
    assert [one.stage for one in reply.guards if one.action == "flag"] == ["input", "output"]


async def test_the_flag_of_a_region_hides_nothing() -> None:
    async with Llama4(ScriptedBackend("ok"), guards=[]) as llama:
        reply = await llama.chat("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f")
    assert {one.action for one in reply.guards} == {"allow"}


async def test_an_item_beyond_the_size_limit_is_blocked() -> None:
    async with Llama4(ScriptedBackend("ok"), guards=[], guard_policy=GuardPolicy(max_characters=10)) as llama:
        with pytest.raises(GuardBlocked, match="size"):
            await llama.chat("x" * 11)


async def test_a_tool_call_is_released_after_its_verdict_and_blocked_before() -> None:
    call = ToolCall("go", {"place": "BOMB"}, "c1")
    tools = [{"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {}}}}]
    backend = ScriptedBackend([ToolCallReady(0, call)])
    async with Llama4(backend, guards=[WordGuard(stages=["tool_call"])]) as llama:
        with pytest.raises(GuardBlocked) as caught:
            async with llama.stream("Hi", tools=tools) as stream:
                async for event in stream:
                    assert not isinstance(event, ToolCallReady | Done)
    assert caught.value.stage == "tool_call"


@pytest.mark.parametrize("guards", ["patterns", [object()], [WordGuard(), WordGuard()]])
def test_guards_that_are_none_are_refused(guards: object) -> None:
    with pytest.raises(InvalidRequest):
        Llama4(ScriptedBackend(), guards=guards)  # type: ignore[arg-type]


def test_a_policy_needs_guards() -> None:
    with pytest.raises(InvalidRequest, match="guards="):
        Llama4(ScriptedBackend(), guard_policy=GuardPolicy())
