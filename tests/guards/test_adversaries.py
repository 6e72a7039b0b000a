"""Guards that misbehave, and texts that hide: nothing leaves without a verdict, and no harm hides in another form."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from guards.guard_doubles import EVERY, WordGuard
from llama4sdk import Done, GuardBlocked, GuardUnavailable, Llama4, TextDelta, ToolCallDelta, ToolCallReady
from llama4sdk import ToolCallStarted as CallStarted
from llama4sdk.guards import Coverage, GuardPolicy, Item, PatternGuard, Redaction, Verdict
from llama4sdk.guards.folding import folded
from llama4sdk.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from llama4sdk.testing import ScriptedBackend

TOOLS = [{"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {}}}}]
QUICK = GuardPolicy(timeout=0.05)


class Acting:
    """Checks with a function."""

    stages = EVERY
    sees_images = False
    name = "acting"

    def __init__(self, act: Callable[[Item], Awaitable[Any]]) -> None:
        self._act = act

    async def check(self, item: Item) -> Any:
        return await self._act(item)

    async def selftest(self) -> None:
        return None


def answering(**fields: Any) -> Callable[[Item], Awaitable[Any]]:
    async def act(item: Item) -> Verdict:
        values: dict[str, Any] = {"coverage": item.inspected(), **fields}
        return Verdict(**values)

    return act


def forging(name: str, value: object) -> Callable[[Item], Awaitable[Any]]:
    async def act(item: Item) -> Verdict:
        verdict = Verdict(coverage=item.inspected())
        owner = verdict.coverage if name == "characters" else verdict
        object.__setattr__(owner, name, value)
        return verdict

    return act


def raising(error: Callable[[], BaseException]) -> Callable[[Item], Awaitable[Any]]:
    async def act(item: Item) -> Verdict:
        raise error()

    return act


async def emptying(item: Item) -> Verdict:
    object.__setattr__(item, "text", "")
    return Verdict(coverage=item.inspected())


async def outlasting(item: Item) -> Verdict:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.1)
    return Verdict(coverage=item.inspected())


async def ignoring_its_cancellation(item: Item) -> Verdict:
    with contextlib.suppress(BaseException):
        await anyio.sleep_forever()
    return Verdict(coverage=item.inspected())


class OddError(BaseException):
    """Is no Exception."""


def cancelled() -> BaseException:
    return anyio.get_cancelled_exc_class()()


@pytest.mark.parametrize(
    "act",
    [
        emptying,
        outlasting,
        ignoring_its_cancellation,
        answering(coverage=Coverage.whole(characters=7)),
        answering(coverage=(2, 2)),
        forging("characters", (9, 2)),
        forging("action", "permit"),
        forging("redactions", (3,)),
        answering(score=float("nan")),
        answering(score=1.5),
        answering(score="high"),
        answering(score=True),
        answering(action="permit"),
        answering(action=["block"]),
        answering(categories="abc"),
        answering(categories=5),
        answering(action="flag", categories=([1],)),
        answering(action="redact", redactions=None),
        answering(action="redact", redactions=((0, 1),)),
        answering(action="redact", redactions=(Redaction(0, 900),)),
        answering(redactions=(Redaction(0, 1),)),
        answering(reason=5),
        raising(cancelled),
        raising(SystemExit),
        raising(GeneratorExit),
        raising(StopAsyncIteration),
        raising(RecursionError),
        raising(OddError),
        raising(lambda: BaseExceptionGroup("several", [cancelled(), ValueError()])),
    ],
)
async def test_a_guard_that_misbehaves_lets_nothing_through(act: Callable[[Item], Awaitable[Any]]) -> None:
    backend = ScriptedBackend("The answer.")
    async with Llama4(backend, guards=[WordGuard(), Acting(act)], guard_policy=QUICK) as llama:
        with anyio.fail_after(20), pytest.raises(GuardUnavailable) as caught:
            async with llama.stream("hi") as stream:
                async for event in stream:
                    assert not isinstance(event, TextDelta)
    assert (backend.running, caught.value.guard) == (0, "acting")


async def test_a_block_goes_before_a_replacement() -> None:
    guards = [WordGuard("secret", action="redact", name="replaces"), WordGuard(name="blocks")]
    async with Llama4(ScriptedBackend("a secret and a BOMB"), guards=guards) as llama:
        with pytest.raises(GuardBlocked) as caught:
            await llama.chat("hi")
    assert caught.value.guard == "blocks"


@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("streaming", ["hold", "final"])
async def test_replacements_fit_however_the_text_is_cut(size: int, streaming: str) -> None:
    text = "One. A secret thing here. Two. More secrets and so on. " * 4
    steps = [TextDelta(text[place : place + size]) for place in range(0, len(text), size)]
    guards = [PatternGuard({"one": "secret"}, action="redact"), WordGuard("secret thing", action="redact")]
    policy = GuardPolicy(streaming=streaming, window=16, overlap=16)  # type: ignore[arg-type]
    async with Llama4(ScriptedBackend(steps), guards=guards, guard_policy=policy) as llama:
        answer = (await llama.chat("hi")).text
    assert "secret" not in answer
    assert answer.count("More [one]s and so on.") == 4


CALLS: list[Any] = [
    [ToolCallReady(0, ToolCall("go", {"BOMB": 1}, "c"))],
    [ToolCallReady(0, ToolCall("go", {"a": {"b": [{"BOMB": None}]}}, "c"))],
    [ToolCallReady(0, ToolCall("BOMB", {}, "c"))],
    [ToolCallReady(0, ToolCall("go", {"a": 'say\n"a BOMB"'}, "c"))],
    [CallStarted(0, "go", "c"), ToolCallDelta(0, '{"a": "BO'), ToolCallDelta(0, 'MB"}'), Done("length")],
    '<|python_start|>[go(a="BOMB")]<|python_end|>',
    '{"name": "go", "parameters": {"a": "BOMB"}}',
    '[go(a="BOMB',
]


@pytest.mark.parametrize("steps", CALLS)
async def test_harm_in_any_part_of_a_call_is_blocked(steps: Any) -> None:
    guard = WordGuard(stages=["tool_call"])
    async with Llama4(ScriptedBackend(steps), guards=[guard]) as llama:
        with pytest.raises(GuardBlocked):
            await llama.chat("hi", tools=TOOLS)


async def test_a_rule_sees_the_texts_of_a_call_without_the_escapes_of_json() -> None:
    call = ToolCall("go", {"a": ['say "now"', "two\nlines"]}, "c")
    for rule in ('say "now"', "two\nlines", '"a": '):
        guard = PatternGuard({"rule": rule}, stages=["tool_call"])
        async with Llama4(ScriptedBackend([ToolCallReady(0, call)]), guards=[guard]) as llama:
            with pytest.raises(GuardBlocked):
                await llama.chat("hi", tools=TOOLS)


LARGE = [
    UserMessage("read"),
    AssistantMessage("", tool_calls=[ToolCall("go", {}, "c")]),
    ToolMessage("x" * 1_000_000 + "BOMB", tool_call_id="c", name="go"),
]


@pytest.mark.parametrize("prompt", [LARGE, [UserMessage(["BO", "MB"])], "data:text/plain,BOMB"])
async def test_harm_in_any_part_of_the_input_is_blocked(prompt: Any) -> None:
    async with Llama4(ScriptedBackend("ok"), guards=[WordGuard()]) as llama:
        with pytest.raises(GuardBlocked):
            await llama.chat(prompt)


@pytest.mark.parametrize(
    ("text", "word"), [("x" * 250 + "BOMB" + "y" * 300, "BOMB"), ("x" * 200 + "L" * 200, "L" * 200)]
)
async def test_harm_across_the_edge_of_a_window_never_leaves(text: str, word: str) -> None:
    out = ""
    async with Llama4(ScriptedBackend([TextDelta(one) for one in text]), guards=[WordGuard(word)]) as llama:
        with pytest.raises(GuardBlocked):
            async with llama.stream("hi") as stream:
                async for piece in stream.text():
                    out += piece
    assert word not in out


HIDDEN = {
    "Cyrillic": "BОMB",
    "zero-width space": "BO\u200bMB",
    "joiner": "BO\u200dMB",
    "full width": "ＢＯＭＢ",
    "mathematics": "𝐁𝐎𝐌𝐁",
    "soft hyphen": "BO\u00adMB",
    "tags": "".join(chr(0xE0000 + ord(one)) for one in "BOMB"),
    "variation selector": "BO\ufe0fMB",
    "direction mark": "BO\u200eMB",
    "invisible times": "BO\u2062MB",
    "filled squares": "🅱🅾🅼🅱",
    "parentheses": "🄑🄞🄜🄑",
    "Lisu": "ꓐꓳꓟꓐ",
    "Cherokee": "ᏴOMᏴ",
    "control character": "BO\x00MB",
    "blank of Braille": "BO\u2800MB",
    "annotation anchor": "BO\ufff9MB",
    "shorthand control": "BO\U0001bca0MB",
}


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
async def test_rules_see_through_what_a_reader_does_not_see(text: str) -> None:
    guard = PatternGuard({"rule": "BOMB"}, action="redact")
    verdict = await guard.check(Item("input", f"é {text} é"))
    assert [(one.start, one.end) for one in verdict.redactions] == [(2, 2 + len(text))]
    assert (await guard.check(Item("input", "ОБОМ, λόγος, 日本 👨‍👩‍👧"))).action == "allow"
    ascii_alone = await guard.check(Item("input", "a\tBO\x00MB\r\nb"))
    assert [(one.start, one.end) for one in ascii_alone.redactions] == [(2, 7)]


def test_places_in_a_folded_text_lie_in_the_original_in_order() -> None:
    dice = random.Random(0)
    for _ in range(500):
        text = "".join(dice.choice("abОＢ\u200b\u200d\u00ad1 é日①\U000e0041") for _ in range(dice.randrange(14)))
        plain = folded(text)
        stretches = [plain.stretch(place, place + 1) for place in range(len(plain.text))] if plain else []
        assert all(0 <= start < end <= len(text) for start, end in stretches)
        assert stretches == sorted(stretches)
