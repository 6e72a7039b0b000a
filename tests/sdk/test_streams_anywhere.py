"""Streams in async generators, task groups, timeouts and middleware: the work stops without an error of ours."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from llama4sdk import InvalidRequest, Llama4, Sampling, Stream
from llama4sdk.bulk.lock import lock
from llama4sdk.testing import ScriptedBackend

BACKENDS = pytest.mark.parametrize("loop", ["asyncio", "trio"])
WORDS = [f"word{n} " for n in range(5000)]


def endless() -> ScriptedBackend:
    """A backend whose answer takes nearly a minute."""
    return ScriptedBackend("".join(WORDS), pause=0.01)


async def words(llama: Llama4) -> AsyncGenerator[str]:
    """The text of a stream as an async generator, as web frameworks take it."""
    async with llama.stream("Tell.") as stream:
        async for text in stream.text():
            yield text


async def at_rest(backend: ScriptedBackend) -> None:
    with anyio.fail_after(20):
        while backend.running:  # noqa: ASYNC110 - a script has no event for it
            await anyio.sleep(0.005)


async def left_early(llama: Llama4) -> None:
    async for _ in words(llama):
        break


async def closed(llama: Llama4) -> None:
    generator = words(llama)
    await anext(generator)
    await generator.aclose()


async def closed_in_another_task(llama: Llama4) -> None:
    generator = words(llama)
    await anext(generator)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(generator.aclose)


async def entered_in_one_task_and_left_in_another(llama: Llama4) -> None:
    stream = llama.stream("Tell.")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.__aenter__)
    await anext(stream)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.__aexit__, None, None, None)


async def inside_a_timeout(llama: Llama4) -> None:
    with pytest.raises(TimeoutError), anyio.fail_after(0.05):
        async for _ in words(llama):
            pass


async def under_a_timeout_that_the_generator_outlives(llama: Llama4) -> None:
    generator = words(llama)
    with anyio.fail_after(20):
        await anext(generator)
    await anext(generator)
    await generator.aclose()


async def in_a_task_group_that_is_cancelled(llama: Llama4) -> None:
    async def read() -> None:
        async for _ in words(llama):
            pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.sleep(0.03)
        tasks.cancel_scope.cancel()


async def beside_a_task_that_fails(llama: Llama4) -> None:
    async def read() -> None:
        async for _ in words(llama):
            pass

    async def fail() -> None:
        await anyio.sleep(0.03)
        raise KeyError("mine")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(fail)
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


async def raising_in_the_block(llama: Llama4) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with llama.stream("Tell.") as stream:
            await anext(stream)
            raise KeyError("mine")


WAYS: list[Callable[[Llama4], Awaitable[None]]] = [
    *(left_early, closed, closed_in_another_task, entered_in_one_task_and_left_in_another, inside_a_timeout),
    *(under_a_timeout_that_the_generator_outlives, in_a_task_group_that_is_cancelled, beside_a_task_that_fails),
    raising_in_the_block,
]


@BACKENDS
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # trio tells of generators that were dropped
def test_a_stream_stops_whichever_way_it_is_left(way: Callable[[Llama4], Awaitable[None]], loop: str) -> None:
    async def main() -> None:
        backend = endless()
        async with Llama4(backend) as llama:
            await way(llama)
            gc.collect()
            await at_rest(backend)
            assert (await llama.chat("And?", sampling=Sampling(max_tokens=2))).text  # the client works on

    anyio.run(main, backend=loop)


@BACKENDS
def test_a_run_and_a_map_inside_generators_stop_too(loop: str) -> None:
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    async def events(llama: Llama4, kind: str) -> AsyncGenerator[Any]:
        if kind == "run":
            async with llama.run_stream("Tell.", tools=[add]) as running:
                async for event in running:
                    yield event
        else:
            async with llama.map([f"{n}" for n in range(50)], progress=False) as outcomes:
                async for outcome in outcomes:
                    yield outcome

    async def main() -> None:
        for kind in ("run", "map"):
            backend = ScriptedBackend("a b c d e" if kind == "map" else "".join(WORDS), pause=0.005)
            async with Llama4(backend) as llama:
                generator = events(llama, kind)
                await anext(generator)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(generator.aclose)
                await at_rest(backend)

    anyio.run(main, backend=loop)


async def test_a_native_cancel_of_the_reader_stops_the_work() -> None:
    backend = endless()
    async with Llama4(backend) as llama:

        async def read() -> None:
            async for _ in words(llama):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await at_rest(backend)


@pytest.mark.filterwarnings("ignore:.*was dropped:ResourceWarning")
def test_a_stream_of_an_earlier_loop_is_an_error_and_no_hang() -> None:
    async def begin() -> Stream:
        llama = Llama4(endless())
        await llama.__aenter__()
        stream = llama.stream("Tell.")
        await stream.__aenter__()
        await anext(stream)
        return stream

    async def read(stream: Stream) -> None:
        with anyio.fail_after(20), pytest.raises(InvalidRequest, match="another event loop"):
            await anext(stream)
        with anyio.fail_after(20):
            await stream.__aexit__(None, None, None)

    kept = [asyncio.run(begin())]
    asyncio.run(read(kept[0]))
    kept.clear()
    gc.collect()


async def test_starlette_middleware_stops_the_work_of_a_client_that_left() -> None:
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    backend = endless()
    async with Llama4(backend) as llama:

        async def tell(request: Any) -> StreamingResponse:
            return StreamingResponse(words(llama), media_type="text/plain")

        class Passing(BaseHTTPMiddleware):
            async def dispatch(self, request: Any, call_next: Any) -> Any:
                return await call_next(request)

        app = Starlette(routes=[Route("/", tell)], middleware=[Middleware(Passing)])
        sent: list[Any] = []
        gone = anyio.Event()

        requests = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> dict[str, Any]:
            for request in requests:
                return request
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if sum("body" in each for each in sent) >= 4:
                gone.set()

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "http_version": "1.1",
        }
        with anyio.fail_after(30):
            await app(scope, receive, send)
        await at_rest(backend)


async def a_stream(llama: Llama4) -> None:
    stream = llama.stream("Tell.")
    await anext(await stream.__aenter__())


async def the_text_of_a_stream(llama: Llama4) -> None:
    texts = (await llama.stream("Tell.").__aenter__()).text()
    gc.collect()
    await anext(texts)
    await anext(texts)


async def a_run(llama: Llama4) -> None:
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    await anext(await llama.run_stream("Tell.", tools=[add]).__aenter__())


async def a_map(llama: Llama4) -> None:
    await llama.map(["Tell.", "Tell."]).__aenter__()


async def a_map_under_way(llama: Llama4) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = await llama.map(["Tell.", "Tell."], journal=Path(folder, "journal")).__aenter__()
        await anyio.sleep(0.02)
        del work
        await until_free(Path(folder, "journal"))


async def until_free(journal: Path) -> None:
    """Wait until no work holds a journal."""
    with anyio.fail_after(20):
        while True:
            with journal.open("rb+") as file:
                if lock(file):
                    return
            await anyio.sleep(0.01)


async def a_map_in_another_thread(llama: Llama4) -> None:
    kept = [llama.map(["Tell.", "Tell."], ordered=True)]
    await kept[0].__aenter__()
    await anyio.to_thread.run_sync(kept.clear)


async def in_another_thread(llama: Llama4) -> None:
    kept = [llama.stream("Tell.")]
    await anext(await kept[0].__aenter__())
    await anyio.to_thread.run_sync(kept.clear)


DROPPED: list[Callable[[Llama4], Awaitable[None]]] = [
    a_stream,
    the_text_of_a_stream,
    a_run,
    in_another_thread,
    a_map,
    a_map_under_way,
    a_map_in_another_thread,
]


@BACKENDS
@pytest.mark.parametrize("what", DROPPED, ids=lambda what: what.__name__)
@pytest.mark.filterwarnings("default:.*was dropped:ResourceWarning")
def test_fault_61_a_stream_dropped_without_leaving_its_block_is_stopped(
    what: Callable[[Llama4], Awaitable[None]], loop: str
) -> None:
    async def main() -> None:
        backend = endless()
        async with Llama4(backend) as llama:
            with pytest.warns(ResourceWarning, match="was dropped without leaving its block"):
                await what(llama)
            await at_rest(backend)

    anyio.run(main, backend=loop)
