"""A wait that one timer ends, on asyncio and trio: cut when its time is over, and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest

from llama4sdk.lazy_timer import LazyTimer


async def waited(timer: LazyTimer, seconds: float, until: float) -> bool:
    """Wait within a limit; return whether the wait came to its end."""
    with timer.limit(timer.now() + until):
        await anyio.sleep(seconds)
        return True
    return False


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_waits_end_when_their_time_is_over_and_the_task_goes_on(loop: str) -> None:
    async def main() -> list[bool]:
        timer = LazyTimer()
        waits = [await waited(timer, 0, 20), await waited(timer, 20, 0.01), await waited(timer, 0.01, 20)]
        await anyio.sleep(0.01)
        waits += [await waited(timer, 20, 0.01), await waited(timer, 20, -1)]
        timer.close()
        return waits

    assert anyio.run(main, backend=loop) == [True, False, True, False, False]


async def test_a_timer_that_fires_between_two_waits_cuts_nothing() -> None:
    timer = LazyTimer()
    assert await waited(timer, 0, 0.01)
    await asyncio.sleep(0.05)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await waited(timer, 0.01, 20)
    timer.close()


async def test_a_limit_within_another_ends_the_inner_wait_or_both() -> None:
    outer, inner = LazyTimer(), LazyTimer()
    with outer.limit(outer.now() + 20):
        assert not await waited(inner, 20, 0.01)
    ended = True
    with outer.limit(outer.now() + 0.01):
        await waited(inner, 20, 20)
        ended = False
    assert ended
    outer.close()
    inner.close()


async def test_the_cancellation_of_a_scope_around_it_passes_through() -> None:
    timer = LazyTimer()
    with anyio.move_on_after(0.01) as scope:
        await waited(timer, 20, 20)
    assert scope.cancelled_caught
    assert await waited(timer, 0, 20)
    timer.close()


Step = Callable[[], object]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["the cut first", "the cut last"])
@pytest.mark.parametrize("by", ["task", "scope"])
async def test_a_cancellation_at_the_moment_of_the_cut_is_not_lost(by: str, order: tuple[int, int]) -> None:
    timer, scope = LazyTimer(), anyio.CancelScope()
    cut: list[Step] = []

    async def main() -> str:
        with scope:
            with timer.limit(timer.now() + 20) as _:
                cut.append(timer._cut.cancel)  # type: ignore[attr-defined]
                await anyio.sleep(20)
            await anyio.sleep(20)
        return "the scope ended it"

    task = asyncio.create_task(main())
    await asyncio.sleep(0.01)
    steps: list[Step] = [cut[0], task.cancel if by == "task" else scope.cancel]
    for place in order:
        steps[place]()
    done, _ = await asyncio.wait([task], timeout=10)
    assert done
    if by == "task":
        assert task.cancelled()
    else:
        assert task.result() == "the scope ended it"
        assert scope.cancelled_caught
    timer.close()
