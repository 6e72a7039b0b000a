"""The asyncio face: a thread with a real small network behind it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from PIL import Image as Pillow

from llama4_local import LocalBackend, open_backend
from llama4sdk.backend import Backend
from llama4sdk.errors import ContextOverflow, InvalidRequest, TooManyImages
from llama4sdk.events import Done, Progress, Started, TextDelta
from llama4sdk.messages import Image, UserMessage, conversation
from llama4sdk.prompting import PromptTemplate, Rendered, Tokenizer
from llama4sdk.request import Request, Sampling
from llama4sdk.stream import Stream
from local.small_backends import ENDLESS, asking, at_rest, events_of, saved_chat, serving, text_of, until_text
from local.small_checkpoints import text_only


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


async def test_an_image_is_seen(folder: Path) -> None:
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


async def test_too_many_images_are_refused(folder: Path) -> None:
    image = Image(Pillow.new("RGB", (20, 20)))
    async with serving(folder, max_images=2) as backend:
        with pytest.raises(TooManyImages, match="3 images and this backend takes 2"):
            await events_of(backend, Request((UserMessage([image] * 3),)))


async def test_a_text_model_takes_no_images(tmp_path: Path) -> None:
    saved_chat(tmp_path, text_only())
    async with serving(tmp_path) as backend:
        assert not backend.capabilities.vision
        with pytest.raises(InvalidRequest, match="no image encoder"):
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


@pytest.mark.parametrize(("target", "name"), [("local", "nano"), ("local:", "nano"), ("local:/models/scout", "scout")])
def test_a_string_names_a_checkpoint(target: str, name: str) -> None:
    assert open_backend(target).capabilities.model == name


def test_an_unknown_option_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="has no option 'colour'"):
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
        {"step_tokens": 131_073},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        open_backend("local", **options)


async def test_a_conversation_in_dicts_is_answered(folder: Path) -> None:
    async with serving(folder) as backend:
        request = Request(
            conversation([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]),
            sampling=Sampling(temperature=0, max_tokens=3),
        )
        assert isinstance((await events_of(backend, request))[-1], Done)
