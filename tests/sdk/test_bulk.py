"""Bulk work: every prompt gets an outcome, whatever becomes of the others."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4sdk import (
    Capabilities,
    DeadlineExceeded,
    Deadlines,
    ImageError,
    InvalidRequest,
    Llama4,
    LlamaError,
    Overloaded,
    Reply,
    Request,
    Sampling,
    ServerFault,
    Usage,
    UserMessage,
)
from llama4sdk.bulk import Bulk, Outcome, Tally, map_prompts
from llama4sdk.bulk.asking import pause_before
from llama4sdk.messages import Prompt, conversation
from llama4sdk.testing import ScriptedBackend
from llama4sdk.testing.scripted import Step

Main: TypeAlias = Callable[[], Awaitable[None]]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    def run(main: Main) -> None:
        anyio.run(main, backend=request.param)

    return run


class Client:
    """A client whose answers a test makes with an async function of the prompt's text."""

    def __init__(self, answer: Callable[[str], Awaitable[str]]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.deadlines: list[Deadlines | None] = []
        self.running = self.most = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("client", "model")

    async def chat(
        self,
        prompt: Prompt,
        *,
        output: object = None,
        repair: int = 0,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
    ) -> Reply:
        text = conversation(prompt)[-1].text
        self.asked.append(text)
        self.deadlines.append(deadlines)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return Reply(await self.answer(text), finish_reason="stop", usage=Usage(1, 2))
        finally:
            self.running -= 1


async def same(text: str) -> str:
    await anyio.lowlevel.checkpoint()
    return text


async def all_of(work: Bulk) -> list[Outcome]:
    async with work as outcomes:
        return [outcome async for outcome in outcomes]


def texts(outcomes: list[Outcome]) -> list[str]:
    return [outcome.result().text for outcome in outcomes]


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
        missing = UserMessage([{"type": "image", "path": "/no/such/picture.png"}, "What is it?"])
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


def test_fault_59_a_thousand_prompts_run_a_few_at_a_time(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        most = 0

        def answer(request: Request) -> str:
            nonlocal most
            most = max(most, backend.running)
            return request.messages[-1].text

        backend = ScriptedBackend(answer)
        async with Llama4(backend) as llama:
            prompts = (f"prompt {number}" for number in range(1000))
            outcomes = await all_of(map_prompts(llama, prompts, concurrency=16))
        assert sorted(texts(outcomes)) == sorted(f"prompt {number}" for number in range(1000))
        assert most <= 16
        assert backend.running == 0

    run(main)


def test_as_many_run_at_once_as_may(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        full = anyio.Event()

        async def answer(text: str) -> str:
            if client.running == 5:
                full.set()
            await full.wait()
            return text

        client = Client(answer)
        prompts: list[Prompt] = [UserMessage(str(number)) for number in range(20)]
        assert len(await all_of(map_prompts(client, prompts, concurrency=5))) == 20
        assert client.most == 5

    run(main)


@pytest.mark.parametrize("ordered", [False, True])
def test_fault_60_a_slow_reader_holds_an_endless_source_up(run: Callable[[Main], None], ordered: bool) -> None:
    async def main() -> None:
        taken = 0

        def endless() -> Iterator[Prompt]:
            nonlocal taken
            for taken in itertools.count(1):
                yield f"prompt {taken}"

        client = Client(same)
        async with map_prompts(client, endless(), concurrency=3, ordered=ordered) as outcomes:
            for read in range(1, 12):
                await anext(outcomes)
                await anyio.wait_all_tasks_blocked()
                assert read < taken <= read + 6
        assert client.most <= 3

    run(main)


def test_leaving_early_frees_the_backend(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        backend = ScriptedBackend(lambda request: ["one", 3600.0] if "7" in request.messages[-1].text else "quick")
        async with Llama4(backend) as llama:
            prompts = (f"prompt {number}" for number in itertools.count())
            async with map_prompts(llama, prompts, concurrency=4) as outcomes:
                async for outcome in outcomes:
                    if outcome.index > 5:
                        break
            assert backend.running == 0
            with pytest.raises(InvalidRequest, match="inside the block"):
                await anext(outcomes)
            assert (await llama.chat("and after it?")).text == "quick"

    run(main)


def test_fault_54_cancelling_around_it_stops_it_in_every_phase(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        steps: list[list[Step]] = [[3600.0], [Overloaded("Busy.", retry_after=3600.0)]]
        for answer in steps:
            asked = anyio.Event()
            backend = ScriptedBackend(lambda _, asked=asked, answer=answer: (asked.set(), answer)[1])
            async with Llama4(backend) as llama:
                with anyio.CancelScope() as scope:
                    async with map_prompts(llama, ["a", "b", "c"], concurrency=2) as outcomes:
                        await asked.wait()
                        scope.cancel()
                        await anext(outcomes)
                assert scope.cancelled_caught
                assert backend.running == 0

    run(main)


def test_the_blocks_own_error_comes_through_as_it_is(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        with pytest.raises(KeyError):
            async with map_prompts(Client(same), ["a", "b"]) as outcomes:
                await anext(outcomes)
                raise KeyError("mine")

    run(main)


def test_prompts_may_come_one_by_one_and_their_generator_is_closed(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        closed_in: list[int] = []

        async def endless() -> AsyncIterator[Prompt]:
            try:
                for number in itertools.count():
                    await anyio.lowlevel.checkpoint()
                    yield f"prompt {number}"
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                closed_in.append(anyio.get_current_task().id)

        async with map_prompts(Client(same), endless(), concurrency=2, ordered=True) as outcomes:
            assert [(await anext(outcomes)).prompt for _ in range(3)] == ["prompt 0", "prompt 1", "prompt 2"]
        assert len(closed_in) == 1

    run(main)


def test_an_error_of_the_source_comes_after_the_outcomes_before_it(run: Callable[[Main], None]) -> None:
    mine = ValueError("my file has a bad line")

    def prompts() -> Iterator[Prompt]:
        yield "a"
        yield "b"
        raise mine

    async def main() -> None:
        seen: list[Prompt] = []
        async with map_prompts(Client(same), prompts()) as outcomes:
            with pytest.raises(ValueError, match="bad line") as raised:
                async for outcome in outcomes:
                    seen.append(outcome.prompt)
        assert raised.value is mine
        assert sorted(map(str, seen)) == ["a", "b"]

    run(main)


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
