"""`Balanced` spreads requests by load and by shared beginnings, and keeps conversations where they began."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from llama4sdk import AssistantMessage, InvalidRequest, Llama4, Overloaded, Request, ServerFault, UserMessage
from llama4sdk.messages import conversation
from llama4sdk.routing import Balanced, Breaker
from llama4sdk.routing.prompt_digests import prompt_digests
from llama4sdk.testing import ScriptedBackend
from routing.failing import Cutting, events_of, text_of, until

WORDS = "one two three four five six"


def ask(prompt: Any) -> Request:
    return Request(conversation(prompt))


def counts(backends: list[ScriptedBackend]) -> list[int]:
    return [len(backend.requests) for backend in backends]


async def test_many_different_prompts_at_once_are_spread_evenly() -> None:
    backends = [ScriptedBackend(WORDS, pause=0.002) for _ in range(4)]
    balanced = Balanced(*backends)
    async with anyio.create_task_group() as tasks:
        for number in range(80):
            tasks.start_soon(events_of, balanced, ask(f"question {number}"))
    assert sum(counts(backends)) == 80
    assert max(counts(backends)) <= 26  # 1.25 times the mean, rounded up


async def test_the_turns_of_a_conversation_stay_with_one_backend() -> None:
    backends = [ScriptedBackend(lambda request: f"answer {len(request.messages)}") for _ in range(4)]
    async with Llama4(Balanced(*backends)) as llama:
        for start in range(12):
            messages: list[Any] = [UserMessage(f"conversation {start}")]
            for turn in range(4):
                messages += [(await llama.chat(messages)).message, UserMessage(f"turn {turn}")]
    for backend in backends:
        begun = Counter(request.messages[0].text for request in backend.requests)
        assert set(begun.values()) <= {4}
    assert sum(1 for count in counts(backends) if count) >= 3


async def test_a_shared_beginning_goes_where_it_is_computed_and_overflows_when_that_one_is_busy() -> None:
    backends = [ScriptedBackend(WORDS, pause=0.002) for _ in range(4)]
    balanced = Balanced(*backends)

    def shared(number: int) -> Request:
        return ask([{"role": "system", "content": "A long manual."}, {"role": "user", "content": f"{number}?"}])

    for number in range(8):
        await events_of(balanced, shared(number))
    assert sorted(counts(backends)) == [0, 0, 0, 8]
    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(events_of, balanced, shared(100 + number))
    assert max(counts(backends)) <= 8 + 13


def test_the_salt_the_tools_and_images_are_part_of_a_beginning() -> None:
    plain = prompt_digests(ask("Hi"))
    assert plain == prompt_digests(ask("Hi"))
    assert plain != prompt_digests(Request(conversation("Hi"), cache_salt="x"))
    images = [prompt_digests(ask(UserMessage([{"type": "image", "data": data}, "Hi"]))) for data in (b"a", b"b")]
    assert images[0] != images[1]
    grown = prompt_digests(ask([UserMessage("Hi"), AssistantMessage("So"), UserMessage("And?")]))
    assert grown[0] == plain[0]


async def test_a_broken_answer_goes_on_elsewhere_and_a_failing_backend_rests() -> None:
    good = ScriptedBackend(WORDS)
    bad = Cutting(ScriptedBackend(WORDS), 3, times=1000)
    balanced = Balanced(good, bad, breaker=Breaker(failures=2, rest=60))
    for number in range(20):
        assert text_of(await events_of(balanced, ask(f"question {number}"))) == WORDS
    assert len(bad.requests) == 2


async def test_a_drained_backend_ends_its_requests_and_gets_no_more() -> None:
    first, second = (ScriptedBackend(WORDS, pause=0.01) for _ in range(2))
    balanced = Balanced(first, second)
    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(events_of, balanced, ask(f"question {number}"))
        await until(lambda: bool(first.running))
        await balanced.drain(first)
        assert first.running == 0
    before = len(first.requests)
    await events_of(balanced, ask("another"))
    assert len(first.requests) == before
    await balanced.drain(second)
    with pytest.raises(Overloaded, match="drained"):
        await events_of(balanced, ask("none is left"))
    balanced.undrain(first)
    assert text_of(await events_of(balanced, ask("again"))) == WORDS


async def test_backends_come_and_go_while_it_serves() -> None:
    first, second = ScriptedBackend("first"), ScriptedBackend("second")
    async with Llama4(balanced := Balanced(first)) as llama:
        await balanced.members.add(second)
        await balanced.members.remove(first)
        assert (await llama.chat("?")).text == "second"
        with pytest.raises(InvalidRequest, match="does not hold"):
            await balanced.drain(first)


async def test_all_failing_backends_give_one_error() -> None:
    balanced = Balanced(*(ScriptedBackend([ServerFault("broken")]) for _ in range(3)))
    with pytest.raises(ServerFault, match="broken"):
        await events_of(balanced, ask("?"))


@pytest.mark.parametrize("spread", [0.5, float("nan"), "much"])
def test_a_spread_below_the_mean_is_refused(spread: Any) -> None:
    with pytest.raises(InvalidRequest):
        Balanced(ScriptedBackend(), spread=spread)
