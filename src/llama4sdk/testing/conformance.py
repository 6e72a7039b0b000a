"""The promises that every backend keeps, as tests to be inherited.

    class TestMyBackend(BackendConformance):
        def make(self) -> Backend:
            return MyBackend(…)

Runs under pytest with pytest-asyncio (`asyncio_mode = "auto"`) or anyio's own plugin. The tests
ask for real answers; override the prompts when the model behind needs other ones.
"""

from __future__ import annotations

import gc
import sys
import threading
from abc import abstractmethod
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from llama4sdk.backend import Backend
from llama4sdk.errors import ContextOverflow, DeadlineExceeded, LlamaError
from llama4sdk.events import Done, Event, Started, TextDelta
from llama4sdk.messages import conversation
from llama4sdk.request import Deadlines, Request, Sampling
from llama4sdk.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from llama4sdk.reply import Reply

# No deadline and no wait of these tests is shorter than what a loaded machine needs.
_PATIENCE = 60.0


class BackendConformance:
    """Inherit, and say how your backend is made."""

    prompt = "Hello!"
    """A prompt that the model answers with some words."""
    other_prompt = "What is 17 + 25?"
    """Another, with another answer."""
    long_prompt = "Count from 1 to 40."
    """A prompt whose answer takes a while: many tokens."""
    encodes_as_written = True
    """Whether the tokenizer makes of an answer the tokens that the model wrote; not so for a random network."""

    @abstractmethod
    def make(self) -> Backend:
        """Return a fresh backend, not started yet."""
        ...

    def held(self, backend: Backend) -> int:
        """Return how much the backend holds for running requests: slots, pages, connections."""
        del backend
        return 0

    def request(self, prompt: str, *, max_tokens: int = 64, deadlines: Deadlines | None = None) -> Request:
        """Return a request whose answer does not depend on chance."""
        sampling = Sampling(temperature=0, max_tokens=max_tokens, seed=1)
        return Request(conversation(prompt), sampling=sampling, deadlines=deadlines or Deadlines())

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Backend]:
        """Start a backend, and close it at the end."""
        backend = self.make()
        with anyio.fail_after(_PATIENCE):
            try:
                await backend.start()
                yield backend
            finally:
                with anyio.CancelScope(shield=True):
                    await backend.aclose()

    async def events(self, backend: Backend, request: Request) -> list[Event]:
        """Return all events of a request."""
        async with backend.open(request) as events:
            return [event async for event in events]

    async def reply(self, backend: Backend, request: Request) -> Reply:
        """Return the reply to a request."""
        async with Stream(backend, request) as stream:
            return await stream.result()

    async def at_rest(self, backend: Backend) -> None:
        """Wait until the backend holds nothing any more."""
        with anyio.fail_after(_PATIENCE):
            while self.held(backend):
                await anyio.sleep(0.005)

    async def test_keeps_the_protocol(self) -> None:
        assert isinstance(self.make(), Backend)

    async def test_started_comes_first_and_done_last_each_once(self) -> None:
        async with self.running() as backend:
            events = await self.events(backend, self.request(self.prompt))
        kinds = [type(event) for event in events]
        assert (kinds[0], kinds[-1]) == (Started, Done)
        assert (kinds.count(Started), kinds.count(Done)) == (1, 1)

    async def test_a_prompt_without_template_is_completed_within_its_limit(self) -> None:
        request = Request((), raw=self.prompt, sampling=Sampling(temperature=0, max_tokens=3, seed=1))
        async with self.running() as backend:
            if not backend.capabilities.raw_prompts:
                pytest.skip("this backend completes no raw prompts")
            events = await self.events(backend, request)
            await self.at_rest(backend)
        last = events[-1]
        assert isinstance(events[0], Started)
        assert isinstance(last, Done)
        assert last.usage is None or last.usage.completion_tokens <= 3

    async def test_deltas_add_up_to_the_reply_in_whole_characters(self) -> None:
        request = self.request(self.prompt)
        async with self.running() as backend:
            events = await self.events(backend, request)
            reply = await self.reply(backend, request)
        texts = [event.text for event in events if isinstance(event, TextDelta)]
        assert "".join(texts) == reply.text
        assert all(text and "\N{REPLACEMENT CHARACTER}" not in text for text in texts)
        assert reply.request_id == request.request_id

    async def test_usage_counts_what_was_written(self) -> None:
        async with self.running() as backend:
            reply = await self.reply(backend, self.request(self.prompt, max_tokens=2))
        assert reply.finish_reason == "length" or reply.usage.completion_tokens <= 2
        assert 0 < reply.usage.completion_tokens <= 2
        assert reply.usage.prompt_tokens > 0
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens

    async def test_max_tokens_ends_the_answer_and_says_so(self) -> None:
        async with self.running() as backend:
            reply = await self.reply(backend, self.request(self.long_prompt, max_tokens=3))
        assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", 3)
        assert not reply.complete

    async def test_the_same_seed_gives_the_same_text(self) -> None:
        async with self.running() as backend:
            request = self.request(self.prompt)
            sampling = replace(request.sampling, temperature=1.0, seed=7)
            replies = [await self.reply(backend, replace(request, sampling=sampling)) for _ in range(2)]
            if not backend.capabilities.seed:
                pytest.skip("this backend promises nothing for a seed")
            assert replies[0].text == replies[1].text

    async def test_an_answer_goes_on_behind_its_beginning(self) -> None:
        request = self.request(self.prompt)
        async with self.running() as backend:
            if not backend.capabilities.can_continue(request):
                pytest.skip("this backend cannot go on with an answer's beginning")
            events = await self.events(backend, request)
            texts = [event.text for event in events if isinstance(event, TextDelta)]
            begun = "".join(texts[: (len(texts) + 1) // 2])
            rest = await self.reply(backend, replace(request, answer_so_far=begun))
        assert rest.text
        if self.encodes_as_written:
            assert begun + rest.text == "".join(texts)

    async def test_two_requests_do_not_see_each_other(self) -> None:
        prompts = [self.prompt, self.other_prompt]
        together: dict[str, str] = {}

        async def ask(backend: Backend, prompt: str) -> None:
            together[prompt] = (await self.reply(backend, self.request(prompt))).text

        async with self.running() as backend:
            alone = {prompt: (await self.reply(backend, self.request(prompt))).text for prompt in prompts}
            async with anyio.create_task_group() as tasks:
                for prompt in prompts:
                    tasks.start_soon(ask, backend, prompt)
        assert together == alone
        assert alone[self.prompt] != alone[self.other_prompt]

    async def test_closing_early_stops_generation(self) -> None:
        async with self.running() as backend:
            async with backend.open(self.request(self.long_prompt)) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        break
            await self.at_rest(backend)
            reply = await self.reply(backend, self.request(self.prompt))
        assert reply.text

    async def test_a_block_that_raises_stops_generation_and_passes_the_error_on(self) -> None:
        async with self.running() as backend:
            with pytest.raises(KeyError, match="mine"):
                async with Stream(backend, self.request(self.long_prompt)) as stream:
                    async for _ in stream:
                        raise KeyError("mine")
            await self.at_rest(backend)

    async def test_cancel_from_another_task_ends_the_stream(self) -> None:
        async with self.running() as backend, anyio.create_task_group() as tasks:
            async with Stream(backend, self.request(self.long_prompt)) as stream:
                async for event in stream:
                    if isinstance(event, TextDelta):
                        tasks.start_soon(stream.cancel)
                        break
                reply = await stream.result()
                assert reply.finish_reason in ("cancelled", "stop")
                assert reply.text
            await self.at_rest(backend)

    async def test_cancellation_is_never_wrapped(self) -> None:
        async with self.running() as backend:
            with anyio.CancelScope() as scope:
                async with backend.open(self.request(self.long_prompt)) as events:
                    async for _ in events:
                        scope.cancel()
            assert scope.cancelled_caught
            await self.at_rest(backend)

    @pytest.mark.parametrize("phase", ["first_token", "total"])
    async def test_a_deadline_names_its_phase(self, phase: str) -> None:
        deadlines = Deadlines(**{phase: 1e-6})
        async with self.running() as backend:
            with pytest.raises(DeadlineExceeded) as caught:
                await self.reply(backend, self.request(self.long_prompt, deadlines=deadlines))
            await self.at_rest(backend)
        assert caught.value.phase == phase
        assert caught.value.retryable

    async def test_a_prompt_longer_than_the_context_is_one_clear_error(self) -> None:
        async with self.running() as backend:
            context = backend.capabilities.context
            if context is None or context > 200_000:
                pytest.skip("this backend's context is unknown, or too long to overflow in a test")
            with pytest.raises(ContextOverflow):
                await self.reply(backend, self.request("one two " * context))
            await self.at_rest(backend)

    async def test_nothing_remains_after_closing(self) -> None:
        async with self.running() as backend:  # what is loaded once per process is loaded now
            await self.reply(backend, self.request(self.prompt))
        gc.collect()
        before = _remains()
        async with self.running() as backend:
            await self.reply(backend, self.request(self.prompt))
        await _until_gone(before)

    async def test_closing_ends_what_runs_with_an_error(self) -> None:
        async with self.running() as backend, Stream(backend, self.request(self.long_prompt)) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    await backend.aclose()
                    break
            try:
                reply = await stream.result()
            except LlamaError as error:
                assert not isinstance(error, DeadlineExceeded)
            else:  # it had come to its end before it was closed
                assert reply.finish_reason == "stop"

    async def test_closing_twice_is_fine_and_asking_afterwards_is_an_error(self) -> None:
        async with self.running() as backend:
            await backend.aclose()
            await backend.aclose()
            with pytest.raises(LlamaError):
                await self.reply(backend, self.request(self.prompt))


def _remains() -> tuple[set[str], int]:
    threads = {thread.name for thread in threading.enumerate() if "AnyIO worker" not in thread.name}
    files = Path("/proc/self/fd")
    return threads, len(list(files.iterdir())) if sys.platform == "linux" else 0


async def _until_gone(before: tuple[set[str], int]) -> None:
    threads, files = _remains()
    for _ in range(200):
        if threads <= before[0] and files <= before[1]:
            return
        await anyio.sleep(0.01)
        gc.collect()
        threads, files = _remains()
    pytest.fail(f"left behind: threads {threads - before[0]}, open files {files - before[1]:+d}")
