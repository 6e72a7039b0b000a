"""The asyncio face: a thread with a real small network behind it."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from PIL import Image as Pillow

from llama4_local import LocalBackend, open_backend
from llama4_local import worker as worker_module
from llama4sdk.backend import Backend
from llama4sdk.errors import (
    BackendMissing,
    CheckpointError,
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    LlamaError,
    ServerFault,
    TooManyImages,
)
from llama4sdk.events import Done, Event, Progress, Started, TextDelta
from llama4sdk.messages import Image, UserMessage, conversation
from llama4sdk.prompting import PromptTemplate, Rendered, Tokenizer
from llama4sdk.request import Deadlines, Request, Sampling
from llama4sdk.stream import Stream
from local.small_backends import asking, chatting, events_of, saved_chat, serving, text_of
from local.small_checkpoints import text_only

ENDLESS = Sampling(temperature=0, max_tokens=400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_chat(tmp_path_factory.mktemp("checkpoint"), chatting(stop_ids=()))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - a thread sets no event of this loop
            await anyio.sleep(0.002)


async def at_rest(backend: LocalBackend) -> None:
    """Wait until the engine holds nothing for any request."""
    await until(lambda: backend.load is not None and not backend.load.requests and not backend.load.global_pages)


def drop(kept: list[Any]) -> None:
    """Let go of the last reference to what is kept."""
    kept.clear()
    gc.collect()


async def until_text(events: AsyncIterator[Event]) -> TextDelta:
    async for event in events:
        if isinstance(event, TextDelta):
            return event
    raise AssertionError("there was no text")


async def test_events_tell_of_loading_queue_prefill_and_text(folder: Path) -> None:
    async with serving(folder) as backend:
        events = await events_of(backend, asking())
    phases = [event.phase for event in events if isinstance(event, Progress)]
    assert isinstance(events[0], Started)
    assert list(dict.fromkeys(phases)) in (["loading", "queued", "prefill"], ["queued", "prefill"])
    assert isinstance(events[-1], Done)
    assert events[-1].finish_reason == "length"


async def test_usage_is_what_the_template_counts(folder: Path) -> None:
    async with serving(folder) as backend:
        request = asking("one two three")
        done = (await events_of(backend, request))[-1]
        assert isinstance(done, Done)
        assert done.usage
        assert done.usage.prompt_tokens == backend.prompt_template.render(request.messages).count.total
        assert done.usage.completion_tokens == request.sampling.max_tokens


async def test_streams_at_once_say_what_each_says_alone(folder: Path) -> None:
    requests = [asking(f"hello {n}", Sampling(temperature=1, seed=n, max_tokens=9)) for n in range(8)]
    async with serving(folder) as backend:
        alone = [text_of(await events_of(backend, request)) for request in requests]
        together = await asyncio.gather(*(events_of(backend, request) for request in requests))
    assert [text_of(events) for events in together] == alone


async def test_a_picture_is_seen(folder: Path) -> None:
    def showing(colour: str) -> Request:
        return Request(
            (UserMessage([Image(Pillow.new("RGB", (90, 40), colour)), "What is it?"]),),
            sampling=Sampling(temperature=0, max_tokens=8),
        )

    async with serving(folder) as backend:
        red, red_again, blue = [await events_of(backend, showing(colour)) for colour in ("red", "red", "blue")]
    assert text_of(red) == text_of(red_again) != text_of(blue)
    assert isinstance(red[-1], Done)
    assert red[-1].usage
    assert red[-1].usage.image_tokens > 8


async def test_too_many_pictures_are_refused(folder: Path) -> None:
    picture = Image(Pillow.new("RGB", (20, 20)))
    async with serving(folder, max_images=2) as backend:
        with pytest.raises(TooManyImages, match="3 pictures and this backend takes 2"):
            await events_of(backend, Request((UserMessage([picture] * 3),)))


async def test_a_text_model_takes_no_pictures(tmp_path: Path) -> None:
    saved_chat(tmp_path, text_only())
    async with serving(tmp_path) as backend:
        assert not backend.capabilities.vision
        with pytest.raises(InvalidRequest, match="no picture encoder"):
            await events_of(backend, Request((UserMessage([Image(Pillow.new("RGB", (20, 20)))]),)))


async def test_capabilities_are_known_after_start(folder: Path) -> None:
    backend = LocalBackend(folder, context=100)
    assert isinstance(backend, Backend)
    assert backend.capabilities.context is None
    with pytest.raises(InvalidRequest, match="start"):
        _ = backend.prompt_template
    async with serving(folder, context=100) as started:
        assert started.capabilities.context == 100
        assert started.capabilities.seed
        assert started.capabilities.logprobs


async def test_fault_46_a_long_text_is_refused_and_never_rendered_on_the_loop(folder: Path) -> None:
    class Watched(PromptTemplate):
        threads: ClassVar[list[int]] = []

        def render(self, *arguments: Any, **options: Any) -> Rendered:
            self.threads.append(threading.get_ident())
            return super().render(*arguments, **options)

    template = Watched(Tokenizer.from_file(folder), tile=56)
    async with serving(folder, prompt_template=template) as backend:
        for text in ("a" * 1_000_000, " " * 1_000_000):
            with pytest.raises(ContextOverflow):
                await events_of(backend, asking(text))
    assert len(template.threads) == 2
    assert threading.get_ident() not in template.threads


async def test_a_model_that_does_not_fit_into_memory_is_refused_with_what_would(folder: Path) -> None:
    with pytest.raises(LlamaError, match=r"needs .* of weights, .* of cache, .* of workspace"):
        await LocalBackend(folder, memory="3MB").start()


async def test_memory_bounds_the_cache(folder: Path) -> None:
    async with serving(folder, memory="40MB", max_sequences=64) as backend:
        assert isinstance((await events_of(backend, asking()))[-1], Done)
        worker, ready = backend.running()
        held = await worker.ask(lambda engine: engine.cache_bytes)
    assert held <= ready.cache_memory < 40_000_000


async def test_fault_47_a_prompt_over_the_context_is_refused_with_the_counts(folder: Path) -> None:
    async with serving(folder, context=20) as backend:
        with pytest.raises(ContextOverflow) as caught:
            await events_of(backend, asking("hello " * 50))
        assert caught.value.limit == 20
        assert caught.value.prompt_tokens
        assert caught.value.prompt_tokens > 50
        assert caught.value.request_id
        await at_rest(backend)


async def test_fault_58_ids_outside_the_vocabulary_are_refused(folder: Path) -> None:
    async with serving(folder) as backend:
        with pytest.raises(InvalidRequest, match="outside the vocabulary of 320"):
            await events_of(backend, asking(sampling=Sampling(stop_token_ids=[320])))


async def test_fault_58_an_immense_max_tokens_means_what_the_context_leaves(folder: Path) -> None:
    async with serving(folder, context=40) as backend:
        events = await events_of(backend, asking(sampling=Sampling(temperature=0, max_tokens=10**9)))
    assert isinstance(events[-1], Done)
    assert events[-1].usage
    assert events[-1].usage.total_tokens == 40


@pytest.mark.parametrize("phase", ["Started", "queued", "prefill", "text"])
async def test_fault_54_leaving_the_block_in_any_phase_frees_everything(folder: Path, phase: str) -> None:
    async with serving(folder, max_sequences=1, step_tokens=8) as backend:
        async with backend.open(asking("hello " * 30, ENDLESS)) as events:
            async for event in events:
                name = event.phase if isinstance(event, Progress) else type(event).__name__
                if phase in (name, "text" if isinstance(event, TextDelta) else ""):
                    break
        await at_rest(backend)


async def test_fault_54_a_cancel_while_another_request_holds_the_only_place(folder: Path) -> None:
    async with serving(folder, max_sequences=1) as backend:
        async with backend.open(asking(sampling=ENDLESS)) as first:
            await until_text(first)
            with anyio.move_on_after(0.05) as scope:
                async with backend.open(asking("other", ENDLESS)) as second:
                    await until_text(second)
            assert scope.cancelled_caught
            assert await until_text(first)
        await at_rest(backend)


async def test_fault_54_a_cancel_while_the_model_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _slow_loading(monkeypatch)
    async with serving(folder) as backend:
        with anyio.move_on_after(0.05):
            await events_of(backend, asking(sampling=ENDLESS))
        gate.set()
        await at_rest(backend)


def _slow_loading(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the engine's thread wait for a gate at each report of progress, without deafening it."""
    gate = threading.Event()
    loading = worker_module.Worker._loading  # pyright: ignore[reportPrivateUsage]

    def slow(self: worker_module.Worker, done: int, total: int) -> None:
        while not gate.wait(0.001):
            loading(self, done, total)
        loading(self, done, total)

    monkeypatch.setattr(worker_module.Worker, "_loading", slow)
    return gate


async def test_loading_shows_in_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _slow_loading(monkeypatch)
    async with serving(folder) as backend, backend.open(asking()) as events:
        async for event in events:
            if isinstance(event, Progress) and event.phase == "loading":
                assert event.unit == "bytes"
                assert event.total
                assert 0 < event.done <= event.total
                break
        gate.set()
        assert await until_text(events)


@pytest.mark.parametrize("phase", ["first_token", "total"])
async def test_a_deadline_ends_a_request_while_the_model_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    gate = _slow_loading(monkeypatch)
    async with serving(folder) as backend:
        with pytest.raises(DeadlineExceeded) as caught:
            await events_of(backend, asking(deadlines=Deadlines(**{phase: 0.05})))
        assert caught.value.phase == phase
        gate.set()
        await at_rest(backend)


async def test_closing_while_the_model_loads_ends_the_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _slow_loading(monkeypatch)
    async with serving(folder) as backend, backend.open(asking()) as events:
        assert isinstance(await anext(events), Started)
        await anext(events)
        await backend.aclose()
        with pytest.raises(ServerFault, match="closed"):
            await until_text(events)


async def test_a_stream_that_is_open_when_the_backend_closes_gets_an_error(folder: Path) -> None:
    async with serving(folder) as backend, backend.open(asking(sampling=ENDLESS)) as events:
        await until_text(events)
        await backend.aclose()
        with pytest.raises(ServerFault, match="closed") as caught:
            async for _ in events:
                pass
        assert not caught.value.retryable
        assert caught.value.request_id


async def test_asking_after_closing_is_an_error(folder: Path) -> None:
    async with serving(folder) as backend:
        await backend.aclose()
        await backend.aclose()
        with pytest.raises(LlamaError, match="closed"):
            await events_of(backend, asking())
        with pytest.raises(LlamaError, match="once"):
            await backend.start()


async def test_asking_before_starting_is_an_error(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="start"):
        await events_of(LocalBackend(folder), asking())


async def test_a_request_runs_once(folder: Path) -> None:
    async with serving(folder) as backend:
        run = backend.open(asking())
        async with run:
            pass
        with pytest.raises(InvalidRequest, match="entered once"):
            await run.__aenter__()


async def test_nothing_remains_after_closing(folder: Path) -> None:
    async with serving(folder) as backend:
        await events_of(backend, asking())
    before = _threads(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with serving(folder) as backend:
        await events_of(backend, asking())
    gc.collect()
    assert (_threads(), len(os.listdir("/proc/self/fd"))) == before  # noqa: PTH208


def _threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if "AnyIO" not in thread.name)


async def test_fault_59_a_thousand_streams_all_finish(folder: Path) -> None:
    finished = 0

    async def one(number: int) -> None:
        nonlocal finished
        events = await events_of(backend, asking(f"{number % 50}", Sampling(temperature=0, max_tokens=2)))
        finished += isinstance(events[-1], Done)

    async with serving(folder, max_sequences=64) as backend, anyio.create_task_group() as tasks:
        for number in range(1000):
            tasks.start_soon(one, number)
    assert finished == 1000


async def test_fault_60_a_slow_reader_does_not_hold_the_others_up(folder: Path) -> None:
    long = replace(ENDLESS, max_tokens=140)
    async with serving(folder) as backend, backend.open(asking(sampling=long)) as slow:
        first = await until_text(slow)
        for n in range(3):
            events = await events_of(backend, asking(f"quick {n}", replace(ENDLESS, max_tokens=20)))
            assert isinstance(events[-1], Done)
        rest = [event async for event in slow]
        assert isinstance(rest[-1], Done)
        alone = await events_of(backend, asking(sampling=long))
        assert first.text + text_of(rest) == text_of(alone)


async def test_fault_61_a_request_dropped_without_leaving_its_block_is_stopped(folder: Path) -> None:
    async with serving(folder) as backend:
        events = await backend.open(asking(sampling=ENDLESS)).__aenter__()
        await until_text(events)
        kept = [events]
        del events
        with pytest.warns(ResourceWarning, match="without leaving its block"):
            drop(kept)
        await at_rest(backend)


async def test_fault_61_a_backend_dropped_without_closing_ends_its_thread(folder: Path) -> None:
    backend = LocalBackend(folder)
    await backend.start()
    await events_of(backend, asking())
    kept = [backend]
    del backend
    with pytest.warns(ResourceWarning, match="without aclose"):
        drop(kept)
    await until(lambda: not any("engine" in name for name in _threads()))


def test_fault_62_a_backend_of_another_loop_is_a_clear_error(folder: Path) -> None:
    async def begin() -> LocalBackend:
        backend = LocalBackend(folder)
        await backend.start()
        await events_of(backend, asking())
        return backend

    async def use(backend: LocalBackend) -> None:
        with pytest.raises(InvalidRequest, match="another event loop"):
            await events_of(backend, asking())
        await backend.aclose()

    asyncio.run(use(asyncio.run(begin())))


def test_fault_62_a_loop_that_is_closed_in_the_middle_ends_the_thread(folder: Path) -> None:
    async def begin() -> tuple[LocalBackend, AsyncIterator[Event]]:
        backend = LocalBackend(folder)
        await backend.start()
        events = await backend.open(asking(sampling=ENDLESS)).__aenter__()
        await until_text(events)
        return backend, events

    backend, events = asyncio.run(begin())
    for thread in threading.enumerate():
        if "engine" in thread.name:
            thread.join(10)
    assert not any("engine" in name for name in _threads())
    kept = [events]
    del events
    with pytest.warns(ResourceWarning, match="without leaving its block"):
        drop(kept)
    asyncio.run(backend.aclose())


_FORKING = """
import asyncio, os, sys
from llama4_local import LocalBackend
from llama4sdk.errors import LlamaError
from llama4sdk.messages import conversation
from llama4sdk.request import Request

async def ask(backend):
    async with backend.open(Request(conversation("hello"))) as events:
        async for _ in events:
            return

async def main():
    backend = LocalBackend(sys.argv[1])
    await backend.start()
    child = os.fork()
    if child == 0:
        try:
            await ask(backend)
        except LlamaError as error:
            await backend.aclose()
            os._exit(42 if "forked" in str(error) else 1)
        os._exit(2)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    await backend.aclose()

asyncio.run(main())
"""


def test_fault_63_a_fork_is_noticed(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKING, str(folder)], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == "42\n"


_LEAVING = """
import asyncio, sys
from llama4_local import LocalBackend
from llama4sdk.messages import conversation
from llama4sdk.request import Request

async def main():
    backend = LocalBackend(sys.argv[1])
    await backend.start()
    events = await backend.open(Request(conversation("hello"))).__aenter__()
    await anext(events); await anext(events)
    kept.append((backend, events))

kept = []
asyncio.run(main())
print("left")
"""


def test_a_program_that_forgets_to_close_still_ends(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LEAVING, str(folder)], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == "left\n"


async def test_a_folder_that_is_not_there_is_an_error_at_start(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "nothing")
    with pytest.raises(CheckpointError):
        await backend.start()
    await backend.aclose()


async def test_a_folder_without_a_tokenizer_is_an_error_at_start(tmp_path: Path) -> None:
    saved_chat(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        await LocalBackend(tmp_path).start()


async def test_fault_64_tensors_that_turn_out_bad_fail_every_request_with_the_reason(tmp_path: Path) -> None:
    saved_chat(tmp_path)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-400:] = b"\xff" * 400  # NaN
    file.write_bytes(content)
    async with serving(tmp_path) as backend:
        for _ in range(2):
            with pytest.raises(CheckpointError, match="not finite"):
                await events_of(backend, asking())


async def test_the_stream_of_the_sdk_runs_on_it(folder: Path) -> None:
    async with serving(folder) as backend:
        async with Stream(backend, asking(sampling=ENDLESS)) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    await stream.cancel()
            assert stream.snapshot.finish_reason == "cancelled"
        await at_rest(backend)


def test_it_runs_under_trio(folder: Path) -> None:
    async def main() -> str:
        async with serving(folder) as backend:
            with anyio.move_on_after(0.02):
                await events_of(backend, asking(sampling=ENDLESS))
            return text_of(await events_of(backend, asking()))

    assert anyio.run(main, backend="trio") == anyio.run(main, backend="asyncio")


def test_a_trio_loop_that_has_ended_ends_the_thread(folder: Path) -> None:
    async def begin() -> LocalBackend:
        backend = LocalBackend(folder)
        await backend.start()
        await events_of(backend, asking())
        return backend

    backend = anyio.run(begin, backend="trio")
    anyio.run(backend.aclose, backend="trio")
    assert not any("engine" in name for name in _threads())


@pytest.mark.parametrize(("target", "name"), [("local", "nano"), ("local:", "nano"), ("local:/models/scout", "scout")])
def test_a_string_names_a_checkpoint(target: str, name: str) -> None:
    assert open_backend(target).capabilities.model == name


def test_an_unknown_option_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="no such option"):
        open_backend("local", colour="red")


@pytest.mark.parametrize(
    "options",
    [
        {"quantize": "int3"},
        {"quantize": True},
        {"max_sequences": 0},
        {"context": -5},
        {"threads": True},
        {"step_tokens": 1.5},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        open_backend("local", **options)


def test_importing_the_package_imports_no_tensor_library() -> None:
    code = "import sys, llama4_local; print(*[m for m in ('torch', 'numpy', 'safetensors') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == ""


async def test_without_torch_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama4_local import readiness

    monkeypatch.setattr(readiness, "find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(BackendMissing, match=r"pip install 'llama4sdk\[local\]'"):
        await LocalBackend(folder).start()


async def test_a_conversation_in_dicts_is_answered(folder: Path) -> None:
    async with serving(folder) as backend:
        request = Request(
            conversation([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]),
            sampling=Sampling(temperature=0, max_tokens=3),
        )
        assert isinstance((await events_of(backend, request))[-1], Done)
