"""`BoundedQueue` on both event loops: order, room, ends, and cancellations that lose nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from llama4sdk.bounded_queue import BoundedQueue

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])


def run(loop: str, main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(10):
            await main()

    anyio.run(bounded, backend=loop)


@LOOPS
@pytest.mark.parametrize("most", [1, 3, 100])
def test_items_come_in_order_and_never_more_than_so_many_wait(loop: str, most: int) -> None:
    queue, put = BoundedQueue[int](most), list[int]()

    async def fill() -> None:
        for item in range(50):
            await queue.put(item)
            put.append(item)
        queue.end()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fill)
            await anyio.wait_all_tasks_blocked()
            assert len(put) == min(most, 50)
            for item in range(50):
                assert await queue.take() == item
                assert len(put) <= item + 1 + most
            for _ in range(2):
                with pytest.raises(anyio.EndOfStream):
                    await queue.take()

    run(loop, main)


@LOOPS
def test_a_take_that_is_cancelled_loses_no_item(loop: str) -> None:
    queue = BoundedQueue[int](3)

    async def main() -> None:
        for item in range(20):
            with anyio.move_on_after(0.001):
                await queue.take()
                raise AssertionError("there was nothing")
            await queue.put(item)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await queue.take()
            assert scope.cancelled_caught
            assert await queue.take() == item

    run(loop, main)


@LOOPS
def test_a_put_that_is_cancelled_puts_nothing(loop: str) -> None:
    queue = BoundedQueue[int](1)

    async def main() -> None:
        await queue.put(1)
        with anyio.move_on_after(0.001):
            await queue.put(2)
            raise AssertionError("there was no room")
        assert await queue.take() == 1
        queue.end()
        with pytest.raises(anyio.EndOfStream):
            await queue.take()

    run(loop, main)


@LOOPS
@pytest.mark.parametrize("end", ["end", "close"])
def test_who_waits_is_woken_by_the_end(loop: str, end: str) -> None:
    async def main() -> None:
        queue = BoundedQueue[int](1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(taken_in_vain, queue)
            await anyio.wait_all_tasks_blocked()
            getattr(queue, end)()
        full = BoundedQueue[int](1)
        await full.put(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put_in_vain, full)
            await anyio.wait_all_tasks_blocked()
            full.close()
        with pytest.raises(anyio.ClosedResourceError):
            await full.take()

    async def taken_in_vain(queue: BoundedQueue[int]) -> None:
        with pytest.raises(anyio.EndOfStream if end == "end" else anyio.ClosedResourceError):
            await queue.take()

    async def put_in_vain(queue: BoundedQueue[int]) -> None:
        with pytest.raises(anyio.BrokenResourceError):
            await queue.put(2)

    run(loop, main)


@LOOPS
def test_an_error_comes_behind_the_last_item(loop: str) -> None:
    async def main() -> None:
        queue = BoundedQueue[int](3)
        await queue.put(1)
        queue.end(ValueError("broken"))
        assert await queue.take() == 1
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                await queue.take()

    run(loop, main)


@LOOPS
def test_several_tasks_that_take_share_the_items(loop: str) -> None:
    queue, taken = BoundedQueue[int](1), list[int]()

    async def take() -> None:
        with pytest.raises(anyio.EndOfStream):
            while True:
                taken.append(await queue.take())

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            for item in range(9):
                await queue.put(item)
            queue.end()
        assert sorted(taken) == list(range(9))

    run(loop, main)
