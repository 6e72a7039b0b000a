"""Nothing leaves before its verdict, over random answers and random times of the backend and the guard."""

from __future__ import annotations

import random
from collections.abc import Callable

import anyio
import pytest

from guards.guard_doubles import WordGuard
from llama4sdk import GuardBlocked, Llama4, TextDelta, ToolCallDelta, ToolCallReady, ToolCallStarted
from llama4sdk.events import Event
from llama4sdk.guards import GuardPolicy
from llama4sdk.messages import ToolCall
from llama4sdk.testing import ScriptedBackend

TOOLS = [{"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {}}}}]
WORDS = ["fine", "words", "here.", "Next", "one!", "日本。", "line\n", "and", "BOMB", "BO", "MB", "a.b"]
BATCHES, STREAMS = 20, 50


def random_answer(dice: random.Random) -> list[str | float | Event]:
    steps: list[str | float | Event] = []
    calls = 0
    for _ in range(dice.randrange(1, 12)):
        kind = dice.random()
        if kind < 0.7:
            words = [word for word in WORDS if word not in ("BOMB", "BO") or dice.random() < 0.2]
            steps.append("".join(dice.choice(words) + dice.choice([" ", ""]) for _ in range(dice.randrange(1, 25))))
        elif kind < 0.85:
            steps.append(dice.choice([0.0, 0.001]))
        else:
            call = ToolCall("go", {"to": dice.choice(["home", "BOMB", "work", "away"])}, f"c{calls}")
            steps += [ToolCallStarted(calls, "go", call.id), ToolCallDelta(calls, "{"), ToolCallReady(calls, call)]
            calls += 1
    return steps


def is_cleared(guard: WordGuard, event: Event, text: str) -> bool:
    """Whether a verdict that was given before covers what has left."""
    inputs = any(item.stage == "input" for item in guard.answered)
    if isinstance(event, TextDelta):
        return inputs and any(item.stage == "output" and item.text.startswith(text) for item in guard.answered)
    if isinstance(event, ToolCallReady):
        return inputs and any(item.call == event.call for item in guard.answered)
    if isinstance(event, ToolCallStarted | ToolCallDelta):
        return inputs and any(item.stage == "tool_call" for item in guard.answered)
    return True


async def one_stream(seed: int) -> None:
    dice = random.Random(seed)
    slow: Callable[[], float] = lambda: dice.choice([0.0, 0.0, 0.001, 0.003])  # noqa: E731
    guard = WordGuard(seconds=slow)
    policy = GuardPolicy(
        streaming=dice.choice(["hold", "hold", "final"]),
        window=dice.choice([8, 40, 256]),
        overlap=dice.choice([0, 8]),
        growth=dice.choice([0, 0, 0.5]),
    )
    steps = random_answer(dice)
    backend = ScriptedBackend(steps)
    prompt = dice.choice(["Hi", "Hi there", "a BOMB"])
    leave_after = dice.choice([None, None, None, dice.randrange(1, 8)])
    text, seen = "", 0
    async with Llama4(backend, guards=[guard], guard_policy=policy) as llama:
        stream = llama.stream(prompt, tools=TOOLS)
        try:
            async with stream:
                async for event in stream:
                    text += event.text if isinstance(event, TextDelta) else ""
                    assert is_cleared(guard, event, text), (seed, event)
                    assert "BOMB" not in text
                    assert not (isinstance(event, ToolCallReady) and event.call.arguments["to"] == "BOMB")
                    seen += 1
                    if seen == leave_after:
                        break
            blocked = False
        except GuardBlocked:
            blocked = True
        assert backend.running == 0, seed
    if leave_after is None and not blocked:
        async with Llama4(ScriptedBackend(steps)) as unguarded:
            plain = await unguarded.chat(prompt, tools=TOOLS)
        assert (text, stream.snapshot.tool_calls) == (plain.text, plain.tool_calls), seed


@pytest.mark.parametrize("batch", range(BATCHES))
async def test_nothing_leaves_before_its_verdict(batch: int) -> None:
    for seed in range(batch * STREAMS, (batch + 1) * STREAMS):
        with anyio.fail_after(60):
            await one_stream(seed)


async def test_cancelling_at_any_await_leaves_nothing_behind() -> None:
    for pauses in range(60):
        backend = ScriptedBackend("A sentence. Another one. A third one. " * 3)
        async with Llama4(backend, guards=[WordGuard()]) as llama:
            async with anyio.create_task_group() as tasks:

                async def ask(llama: Llama4 = llama) -> None:
                    await llama.chat("Hi")

                tasks.start_soon(ask)
                for _ in range(pauses):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert backend.running == 0
            assert (await llama.chat("Hi")).text


def test_under_trio_as_well() -> None:
    async def all_of_them() -> None:
        for seed in range(5000, 5030):
            await one_stream(seed)

    anyio.run(all_of_them, backend="trio")
