"""How much of bulk work runs and is held at once, and what ends it early."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import anyio.lowlevel
import pytest

from llama4sdk import InvalidRequest, Llama4, Overloaded, Request, UserMessage
from llama4sdk.bulk import map_prompts
from llama4sdk.messages import Prompt
from llama4sdk.testing import ScriptedBackend
from llama4sdk.testing.scripted import Step
from sdk.bulk_asking import Client, Main, all_of, same, texts


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
