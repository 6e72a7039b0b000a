"""The terms of a guard: what counts as a verdict, what it may touch, and when it is started and closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from PIL import Image as Picture

from guards.guard_doubles import EVERY
from llama4sdk import (
    GuardBlocked,
    GuardUnavailable,
    Image,
    InvalidRequest,
    Llama4,
    ToolCall,
    ToolCallReady,
    UserMessage,
)
from llama4sdk.guards import (
    CodeShield,
    Coverage,
    Guard,
    GuardPolicy,
    HiddenCharacters,
    Item,
    LlamaGuard,
    PatternGuard,
    PromptGuard,
    Redaction,
    Verdict,
)
from llama4sdk.guards.windows import Windows
from llama4sdk.testing import ScriptedBackend

QUICK = GuardPolicy(timeout=0.05, selftest_timeout=0.05)


class Guarding:
    """A guard that does what it is given."""

    sees_images = False

    def __init__(
        self,
        check: Callable[[Item], object] = lambda item: Verdict(coverage=item.inspected()),
        *,
        selftest: Callable[[], object] = lambda: None,
        name: Any = "made",
        stages: Any = EVERY,
    ) -> None:
        self.name, self.stages = name, stages
        self._check, self._selftest = check, selftest

    async def check(self, item: Item) -> Verdict:
        result: Any = self._check(item)
        return await result if asyncio.iscoroutine(result) else result

    async def selftest(self) -> object:
        result: Any = self._selftest()
        return await result if asyncio.iscoroutine(result) else result


async def ask(guard: Any, policy: GuardPolicy | None = None, prompt: str = "hi") -> str:
    async with Llama4(ScriptedBackend("Fine."), guards=[guard], guard_policy=policy) as llama:
        return (await llama.chat(prompt)).text


async def stubborn(item: Item | None = None) -> Verdict:
    with suppress(BaseException):
        await anyio.sleep(5)
    return Verdict(coverage=item.inspected() if item else Coverage())


def blocking(item: Item | None = None) -> Verdict:
    time.sleep(0.1)
    return Verdict(coverage=item.inspected() if item else Coverage())


class Complete(Coverage):
    @property
    def complete(self) -> bool:
        return True


def raising(error: BaseException) -> Callable[[Item], object]:
    def check(_: Item) -> object:
        raise error

    return check


@pytest.mark.parametrize(
    "guard",
    [
        Guarding(blocking),
        Guarding(stubborn),
        Guarding(selftest=blocking),
        Guarding(selftest=stubborn),
        Guarding(lambda item: Verdict(coverage=Complete((0, len(item.text))))),
        Guarding(raising(BaseExceptionGroup("several", [asyncio.CancelledError()]))),
        Guarding(raising(BaseExceptionGroup("several", [GeneratorExit(), ValueError()]))),
        Guarding(lambda item: Verdict("flag", redactions=(Redaction(0, 1),), coverage=item.inspected())),
        Guarding(lambda item: Verdict("redact", redactions=(Redaction(0, 1, None),), coverage=item.inspected())),  # type: ignore[arg-type]
        Guarding(lambda item: Verdict("redact", redactions=(Redaction(0.0, 1.0),), coverage=item.inspected())),  # type: ignore[arg-type]
    ],
)
async def test_what_is_late_cancelled_or_malformed_is_no_verdict(guard: Guard) -> None:
    with pytest.raises(GuardUnavailable):
        await ask(guard, QUICK)
    allowing = GuardPolicy(on_error="allow", timeout=0.05, selftest_timeout=0.05)
    assert await ask(guard, allowing) == "Fine."


async def test_a_block_counts_without_coverage_where_errors_are_allowed() -> None:
    with pytest.raises(GuardBlocked):
        await ask(Guarding(lambda _: Verdict("block")), GuardPolicy(on_error="allow"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Guarding(name=""),
        lambda: Guarding(name=None),
        lambda: Guarding(stages=("inputs",)),
        lambda: Guarding(stages=()),
        lambda: Guarding(stages="input"),
        lambda: Guarding(stages=None),
        lambda: Guarding(stages=iter(EVERY)),
        lambda: Guarding,
        lambda: PatternGuard({"a": "b"}, stages=()),
        lambda: PatternGuard({"a": "b"}, action="deny"),  # type: ignore[arg-type]
        lambda: PatternGuard({"a": "b"}, seconds=None),  # type: ignore[arg-type]
        lambda: PatternGuard({"a": "b"}, seconds=-1),
        lambda: PatternGuard({"a": b"b"}),  # type: ignore[dict-item]
        lambda: PatternGuard(["b"]),  # type: ignore[arg-type]
        lambda: PromptGuard("x", stages=("result",)),  # type: ignore[arg-type]
        lambda: CodeShield(stages="output"),  # type: ignore[arg-type]
        lambda: LlamaGuard(ScriptedBackend("safe"), stages=()),
        lambda: LlamaGuard(ScriptedBackend("safe"), categories="S1"),
        lambda: LlamaGuard(ScriptedBackend("safe"), categories=()),
    ],
)
def test_a_guard_that_would_check_nothing_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidRequest):
        Llama4(ScriptedBackend(), guards=[make()])


async def test_a_guard_cannot_change_the_call_that_runs() -> None:
    paths: list[str] = []

    def remove(path: str) -> str:
        """Remove a file."""
        paths.append(path)
        return "removed"

    def change(item: Item) -> Verdict:
        for call in (item.call, *(call for each in item.messages for call in getattr(each, "tool_calls", ()))):
            if call is not None:
                call.arguments["path"] = "/etc"
        return Verdict(coverage=item.inspected())

    def answer(request: Any) -> Any:
        called = len(request.messages) > 1
        return "Done." if called else [ToolCallReady(0, ToolCall("remove", {"path": "/tmp/a"}, id="1"))]

    guards = [Guarding(change, stages=("tool_call",)), PatternGuard({"other": "/etc"}, stages=("tool_call",))]
    async with Llama4(ScriptedBackend(answer), guards=guards) as llama:
        await llama.run("Remove it.", tools=[remove])
    assert paths == ["/tmp/a"]


async def test_images_reach_a_guard_that_sees_them_only_once_it_is_started() -> None:
    images: list[int] = []

    class Late(Guarding):
        sees_images = False

        async def start(self) -> None:
            self.sees_images = True

    guard = Late(lambda item: images.append(len(item.images)) or Verdict(coverage=item.inspected()), stages=("input",))
    async with Llama4(ScriptedBackend("Fine."), guards=[guard]) as llama:
        await llama.chat(UserMessage([Image(Picture.new("RGB", (8, 8))), "What is it?"]))
    assert images == [1]


async def test_a_shared_guard_is_started_once_and_closed_with_its_last_client() -> None:
    class Counting(ScriptedBackend):
        starts = closes = 0

        async def start(self) -> None:
            self.starts += 1
            await anyio.sleep(0.001)

        async def aclose(self) -> None:
            self.closes += 1

    judge = Counting(lambda request: "unsafe\nS1" if "bomb" in request.messages[-1].text else "safe")
    guard = LlamaGuard(judge, stages=("input",))
    async with Llama4(ScriptedBackend("Fine."), guards=[guard]) as one:
        async with Llama4(ScriptedBackend("Fine."), guards=[guard]) as other, anyio.create_task_group() as tasks:
            tasks.start_soon(one.chat, "hi")
            tasks.start_soon(other.chat, "hi")
        assert (judge.starts, judge.closes) == (1, 0)
        assert (await one.chat("again")).text == "Fine."
    assert judge.closes == 1


async def test_a_guard_that_cannot_be_closed_does_not_keep_others_open() -> None:
    closed: list[str] = []

    class Closing(Guarding):
        async def aclose(self) -> None:
            closed.append(self.name)
            raise RuntimeError(self.name)

    with pytest.raises(RuntimeError, match="one"):
        async with Llama4(ScriptedBackend("Fine."), guards=[Closing(name="one"), Closing(name="two")]) as llama:
            await llama.chat("hi")
    assert closed == ["one", "two"]


@pytest.mark.parametrize("score", [float("nan"), 2.0, -0.1, None])
async def test_a_window_without_a_probability_has_no_verdict(score: Any) -> None:
    class Classifier:
        def windows(self, text: str, size: int, overlap: int) -> Windows:
            return Windows(tuple((ord(letter),) for letter in text if letter.isalpha()), len(text))

        def harm(self, windows: Any) -> list[float]:
            return [score if ids == (ord("z"),) else 0.9 if ids == (ord("q"),) else 0.1 for ids in windows]

    guard = PromptGuard(Classifier(), canary="q", benign="a")
    assert await ask(guard, prompt="abc") == "Fine."
    with pytest.raises(GuardUnavailable):
        await ask(guard, prompt="abz")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("a" + "".join(chr(0xE0100 + byte) for byte in b"hidden"), "block"),
        ("a\u200b\u200c\u200b\u200c\u200c", "block"),
        ("\U0001f3f4" + "".join(chr(0xE0000 + byte) for byte in b"ignore") + "\U000e007f", "block"),
        ("👨‍👩‍👧 ❤️ 👩🏽‍❤️‍💋‍👨🏿 1️⃣", "allow"),
        ("\U0001f3f4" + "".join(chr(0xE0000 + byte) for byte in b"gbeng") + "\U000e007f", "allow"),
        ("می‌خواهم 葛\U000e0100城", "allow"),
    ],
)
async def test_rows_of_selectors_and_of_characters_without_width_are_hidden(text: str, action: str) -> None:
    assert (await HiddenCharacters("block").check(Item("input", text))).action == action


async def test_the_system_prompt_is_searched_for_hidden_characters() -> None:
    prompt = [{"role": "system", "content": "Be \u202ekind."}, {"role": "user", "content": "hi"}]
    async with Llama4(
        ScriptedBackend("Fine."), guards=[], guard_policy=GuardPolicy(hidden_characters="block")
    ) as llama:
        with pytest.raises(GuardBlocked):
            await llama.chat(prompt)


@pytest.mark.parametrize(
    "text", ["T\u0336I\u0336C\u0336KET", "ＴＩ\u0301ＣＫＥＴ", "\U0001f143\U0001f138CKET", "ᵀICKET"]
)
async def test_rules_see_through_marks_and_forms_of_letters(text: str) -> None:
    verdict = await PatternGuard({"rule": "(?i)ticket"}, action="redact").check(Item("input", f"a {text} b"))
    assert [(one.start, one.end) for one in verdict.redactions] == [(2, 2 + len(text))]


async def test_a_shared_guard_starts_in_two_event_loops() -> None:
    class Slow(ScriptedBackend):
        async def start(self) -> None:
            await anyio.sleep(0.02)

    guard = LlamaGuard(Slow("safe"))

    def starts() -> None:
        for _ in range(2):
            asyncio.run(guard.start())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(partial(anyio.to_thread.run_sync, starts, abandon_on_cancel=True))
