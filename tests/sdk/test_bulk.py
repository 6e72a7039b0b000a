"""Bulk work: every prompt gets an outcome, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4sdk import (
    DeadlineExceeded,
    Deadlines,
    ImageError,
    InvalidRequest,
    Llama4,
    LlamaError,
    Overloaded,
    Reply,
    ServerFault,
    Usage,
    UserMessage,
)
from llama4sdk.bulk import Outcome, Tally, map_prompts
from llama4sdk.bulk.asking import pause_before
from llama4sdk.testing import ScriptedBackend
from sdk.bulk_asking import Client, Main, all_of, same, texts


def test_every_prompt_gets_its_own_reply(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with Llama4(ScriptedBackend()) as llama:
            prompts = [f"prompt {number}" for number in range(30)]
            outcomes = await all_of(map_prompts(llama, prompts, concurrency=4))
        assert sorted(outcome.index for outcome in outcomes) == list(range(30))
        for outcome in outcomes:
            assert outcome.ok
            assert outcome.prompt == f"prompt {outcome.index}" == outcome.result().text
            assert len(outcome.key) == 64

    run(main)


def test_outcomes_come_as_they_finish(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        last_may_end = anyio.Event()

        async def answer(text: str) -> str:
            if text == "slow":
                await last_may_end.wait()
            return text

        async with map_prompts(Client(answer), ["slow", "quick", "quicker"]) as outcomes:
            first = [(await anext(outcomes)).prompt for _ in range(2)]
            last_may_end.set()
            rest = [outcome.prompt async for outcome in outcomes]
        assert set(first) == {"quick", "quicker"}
        assert rest == ["slow"]

    run(main)


@given(steps=st.lists(st.integers(0, 6), max_size=20), concurrency=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_in_order_they_come_in_order_however_they_finish(steps: list[int], concurrency: int) -> None:
    async def answer(text: str) -> str:
        for _ in range(int(text)):
            await anyio.lowlevel.checkpoint()
        return text

    async def main() -> None:
        client = Client(answer)
        prompts = [str(step) for step in steps]
        outcomes = await all_of(map_prompts(client, prompts, concurrency=concurrency, ordered=True))
        assert texts(outcomes) == prompts
        assert [outcome.index for outcome in outcomes] == list(range(len(steps)))
        assert client.most <= concurrency

    anyio.run(main)


def test_one_failure_never_ends_the_rest(run: Callable[[Main], None]) -> None:
    async def answer(text: str) -> str:
        if text == "fault":
            raise ServerFault("It broke.", retryable=False)
        if text == "bug":
            raise RuntimeError("a bug in a backend")
        return text

    async def main() -> None:
        missing = UserMessage([{"type": "image", "path": "/no/such/image.png"}, "What is it?"])
        prompts: list[Any] = ["a", "fault", 42, "bug", missing, [], "b"]
        async with map_prompts(Client(answer), prompts, ordered=True) as work:
            outcomes = [outcome async for outcome in work]
            assert work.tally == Tally(answered=2, failed=5, usage=Usage(2, 4))
            assert work.tally.done == 7
        kinds = [type(outcome.error) for outcome in outcomes]
        nothing = type(None)
        assert kinds == [nothing, ServerFault, InvalidRequest, ServerFault, ImageError, InvalidRequest, nothing]
        assert isinstance(outcomes[3].error and outcomes[3].error.__cause__, RuntimeError)
        with pytest.raises(ServerFault, match="It broke"):
            outcomes[1].result()
        assert outcomes[2].key == ""

    run(main)


def test_what_may_pass_is_tried_again_a_few_times(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        busy = Overloaded("Busy.", retry_after=0.0)
        backend = ScriptedBackend([busy], [busy], "at last")
        async with Llama4(backend) as llama:
            assert texts(await all_of(map_prompts(llama, ["?"], retries=2))) == ["at last"]
        assert len(backend.requests) == 3

        backend = ScriptedBackend([busy])
        async with Llama4(backend) as llama:
            (outcome,) = await all_of(map_prompts(llama, ["?"], retries=3))
        assert isinstance(outcome.error, Overloaded)
        assert len(backend.requests) == 4

    run(main)


def test_what_cannot_pass_is_asked_once(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        backend = ScriptedBackend([InvalidRequest("No.")])
        async with Llama4(backend) as llama:
            await all_of(map_prompts(llama, ["?"], retries=5))
        assert len(backend.requests) == 1

    run(main)


def test_the_total_deadline_spans_all_tries(run: Callable[[Main], None]) -> None:
    async def answer(text: str) -> str:
        if text == "patient":
            raise Overloaded("Busy.", retry_after=30.0)
        raise Overloaded("Busy.", retry_after=0.0)

    async def main() -> None:
        client = Client(answer)
        deadlines = Deadlines(total=5.0)
        for outcome in await all_of(map_prompts(client, ["patient", "hasty"], deadlines=deadlines, retries=2)):
            assert isinstance(outcome.error, Overloaded)
        # There is no time left for a pause of half a minute, so the first is not asked again.
        assert sorted(client.asked) == ["hasty", "hasty", "hasty", "patient"]
        for each in client.deadlines:
            assert each is not None
            assert 0 < (each.total or 0) <= 5.0

    run(main)


@given(attempt=st.integers(1, 1000), jitter=st.floats(0, 1), asked=st.none() | st.floats())
def test_fault_02_no_server_makes_bulk_work_wait_endlessly(attempt: int, jitter: float, asked: float | None) -> None:
    pause = pause_before(attempt, Overloaded("Busy.", retry_after=asked), jitter)
    assert 0 <= pause <= 75
    if asked is not None and 0 <= asked <= 60:
        assert pause >= asked
    assert 0 < pause_before(attempt, ServerFault("It broke."), jitter) <= 8


def test_no_prompts_make_no_outcomes(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        assert await all_of(map_prompts(Client(same), [])) == []

    run(main)


async def test_typed_answers_come_with_their_objects() -> None:
    async with Llama4(ScriptedBackend('{"n": 1}', "no json", '{"n": 3}')) as llama:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        work = map_prompts(llama, ["a", "b"], output=schema, repair=1, concurrency=1)
        assert [outcome.result().output for outcome in await all_of(work)] == [{"n": 1}, {"n": 3}]


async def test_a_prompt_may_hold_a_deadline_that_passes() -> None:
    async with Llama4(ScriptedBackend([3600.0])) as llama:
        (outcome,) = await all_of(map_prompts(llama, ["?"], deadlines=Deadlines(total=0.01)))
    assert isinstance(outcome.error, DeadlineExceeded)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": 10_001}, "concurrency"),
        ({"retries": -1}, "retries"),
        ({"repair": 6}, "repair"),
        ({"output": 3}, "output"),
    ],
)
def test_nonsense_is_refused_where_it_is_said(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        map_prompts(Client(same), ["a"], **arguments)


@pytest.mark.parametrize("prompts", ["one prompt", {"role": "user", "content": "one"}, b"one", 7, None])
def test_a_single_prompt_is_not_taken_for_many(prompts: Any) -> None:
    with pytest.raises(InvalidRequest, match="map"):
        map_prompts(Client(same), prompts)


async def test_it_is_entered_first_and_once() -> None:
    work = map_prompts(Client(same), ["a"])
    with pytest.raises(InvalidRequest, match="Enter the work"):
        await anext(work)
    await all_of(work)
    with pytest.raises(InvalidRequest, match="once"):
        await work.__aenter__()


def test_an_outcome_has_a_reply_or_an_error() -> None:
    with pytest.raises(InvalidRequest, match="either"):
        Outcome(0, "", "a")
    with pytest.raises(InvalidRequest, match="either"):
        Outcome(0, "", "a", Reply(), LlamaError("both"))
