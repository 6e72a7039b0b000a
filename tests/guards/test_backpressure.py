"""Text that is held back never stops the backend for good, however it is cut."""

from __future__ import annotations

import anyio
import pytest

from guards.guard_doubles import WordGuard
from llama4sdk import Llama4, TextDelta
from llama4sdk.guards import Coverage, GuardPolicy, Item, Verdict
from llama4sdk.testing import ScriptedBackend


class WaitsForTheEnd:
    """Inspects an answer only when it is complete."""

    name = "whole"
    stages = ("output",)

    async def check(self, item: Item) -> Verdict:
        if item.final:
            return Verdict(coverage=item.inspected())
        return Verdict(status="waiting", coverage=Coverage((0, len(item.text))))

    async def selftest(self) -> None:
        return None


@pytest.mark.parametrize("size", [1, 31, 33, 500, 5000])
@pytest.mark.parametrize("streaming", ["hold", "observe", "final"])
async def test_deltas_of_any_size_pass(size: int, streaming: str) -> None:
    steps = [TextDelta("x" * size) for _ in range(20)]
    policy = GuardPolicy(streaming=streaming, window=8, overlap=8)  # type: ignore[arg-type]
    async with Llama4(ScriptedBackend(steps), guards=[WordGuard()], guard_policy=policy) as llama:
        with anyio.fail_after(60):
            assert len((await llama.chat("Hi")).text) == 20 * size


@pytest.mark.parametrize(("growth", "most"), [(0.0, 10_000), (0.1, 11)])
async def test_a_guard_reads_as_much_of_an_answer_as_its_growth_allows(growth: float, most: int) -> None:
    sentences = [TextDelta("A sentence. ") for _ in range(400)]
    steps = [step for sentence in sentences for step in (sentence, 0.0)]  # so that each sentence could be checked
    guard = WordGuard(stages=["output"])
    async with Llama4(ScriptedBackend(steps), guards=[guard], guard_policy=GuardPolicy(growth=growth)) as llama:
        with anyio.fail_after(60):
            text = (await llama.chat("Hi")).text
    read = sum(len(item.text) for item in guard.items)
    assert text == "A sentence. " * 400
    assert read <= (most + 1) * len(text)
    assert growth or read > 20 * len(text)


async def test_a_guard_may_wait_for_the_whole_answer() -> None:
    text = "A sentence. " * 500
    async with Llama4(ScriptedBackend(text), guards=[WaitsForTheEnd()]) as llama:
        with anyio.fail_after(60):
            assert (await llama.chat("Hi")).text == text


async def test_a_slow_reader_holds_the_backend_back() -> None:
    sent = 0

    def steps() -> list[TextDelta]:
        return [TextDelta("A sentence. ") for _ in range(5000)]

    backend = ScriptedBackend(steps())
    guard = WordGuard()
    async with Llama4(backend, guards=[guard]) as llama, llama.stream("Hi") as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                sent += 1
                break
        for _ in range(2000):
            await anyio.lowlevel.checkpoint()
        longest = max(len(item.text) for item in guard.items if item.stage == "output")
        assert longest < 5000 * len("A sentence. ") / 4
