"""Bulk work itself: it feeds prompts to a bounded number of questions, and knows no reader."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from anyio import from_thread, to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from llama4sdk.bulk.bar import ProgressBar, open_bar
from llama4sdk.bulk.journal import Journal
from llama4sdk.bulk.key import prompt_key
from llama4sdk.bulk.outcome import Answered, Failed, Tally
from llama4sdk.messages import Message, Prompt, conversation
from llama4sdk.output import answer_form
from llama4sdk.output.form import MisfitError
from llama4sdk.owned_task import call_in, running_loop, start_owned
from llama4sdk.reply import Reply
from llama4sdk.stream import one_error

if TYPE_CHECKING:
    import os

    from anyio.abc import TaskGroup
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from llama4sdk.bulk.asking import Asking
    from llama4sdk.bulk.source import PromptSource

# Prompts that are taken and not yet read as outcomes, for each that may run: what keeps the backend busy
# while the reader is busy, and bounds what is held for it.
_ROOM = 2
_SHORT = 10_000  # characters that the loop may well hash by itself
_REDRAWN_EVERY = 0.2  # seconds
AnyOutcome: TypeAlias = Answered[Any] | Failed[Any]


@dataclass(frozen=True, slots=True)
class _Question:
    """A prompt that is to be asked."""

    index: int
    key: str
    prompt: Prompt
    messages: tuple[Message, ...]


class Work:
    """Asks prompts in a task of the event loop's own.

    It never refers to what reads it, so that a reader that is dropped without leaving its block is freed, and stops it.

    Args:
        asking: How each prompt is asked.
        prompts: The prompts.
        concurrency: How many are asked at the same time.
    """

    def __init__(self, asking: Asking, prompts: PromptSource, concurrency: int) -> None:
        self._asking = asking
        self._form = answer_form(asking.output)
        self._prompts = prompts
        self.home: object = None  # the event loop that it runs in
        self._task: object = None
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._dropped = False
        self._answered = anyio.Event()  # the first prompt, or another before it
        self._journal: Journal | None = None
        self.failure: Exception | None = None
        self.tally = Tally()
        self._running = anyio.Semaphore(concurrency)
        self._most = _ROOM * concurrency
        self.room = anyio.Semaphore(self._most)
        self._send: MemoryObjectSendStream[AnyOutcome]
        self.outcomes: MemoryObjectReceiveStream[AnyOutcome]

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.home is not None and not self._ended.is_set()

    async def start(self, journal: str | os.PathLike[str] | None, progress: bool | None) -> None:
        """Open the journal and the progress bar, and start the task, in the running event loop."""
        bar = await to_thread.run_sync(open_bar, progress, self._prompts.total)
        if journal is not None:
            self._journal = await _opened(journal, self._asking.client.capabilities.model)
        # As many as there is room for, so that sending never waits.
        self._send, self.outcomes = anyio.create_memory_object_stream[AnyOutcome](self._most)
        self.home = running_loop()
        self._task = start_owned(partial(self._main, bar))

    async def stop(self) -> None:
        """Stop, wait for the end, and let go of outcomes and journal; its loop may have ended, and the task with it."""
        if running_loop() != self.home:
            self.outcomes.close()
            return
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()
            await self._close()

    def stop_soon(self) -> None:
        """Stop without waiting for it, from any thread; does nothing where its event loop has ended."""
        self._dropped = True
        call_in(self.home, self._scope.cancel)

    async def _close(self) -> None:
        self.outcomes.close()
        if self._journal is not None:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._journal.close)

    async def _main(self, bar: ProgressBar | None) -> None:
        """Run the work in a task of the event loop's own, whatever task enters and leaves the block."""
        try:
            with self._scope:
                await checkpoint_if_cancelled()  # tasks that are cancelled before their first step clean nothing up
                async with anyio.create_task_group() as tasks:
                    if bar is not None:
                        tasks.start_soon(self._draw, bar)
                    await self._work()
        except Exception as error:  # noqa: BLE001 - the task's edge: raised to the reader
            self.failure = self.failure or error
        finally:
            self._send.close()
            self._ended.set()
            if self._dropped:
                with suppress(OSError):  # there is no reader to tell
                    await self._close()

    async def _work(self) -> None:
        with self._send:
            async with anyio.create_task_group() as asks:
                try:
                    await self._feed(asks)
                except Exception as error:  # noqa: BLE001 - the caller's own iterable may raise anything
                    self.failure = error

    async def _feed(self, asks: TaskGroup) -> None:
        index = 0
        try:
            while True:
                await self.room.acquire()
                await self._running.acquire()
                try:
                    prompt = await anext(self._prompts)
                except StopAsyncIteration:
                    return
                # One after the other, so that equal prompts find their own replies in the journal.
                earlier = await self._looked_up(index, prompt)
                if isinstance(earlier, Answered | Failed):
                    self._deliver(earlier)
                else:
                    asks.start_soon(self._one, earlier, asks.cancel_scope)
                index += 1
        finally:
            await self._prompts.aclose()

    async def _looked_up(self, index: int, prompt: Prompt) -> AnyOutcome | _Question:
        if self._journal is not None and self._journal.awaits_model:
            await self._name_model(self._journal, first=index == 0)
        if self._journal is None and isinstance(prompt, str) and len(prompt) <= _SHORT:
            return self._look_up(index, prompt)
        return await to_thread.run_sync(self._look_up, index, prompt)

    async def _name_model(self, journal: Journal, *, first: bool) -> None:
        """Find out which model answers: the first prompt is asked for it, and the others wait for its answer."""
        if not first and not self._asking.client.capabilities.model:
            await self._answered.wait()
        await to_thread.run_sync(journal.name, self._asking.client.capabilities.model)

    def _look_up(self, index: int, prompt: Prompt) -> AnyOutcome | _Question:
        """Read the prompt, and return its outcome where that is known already."""
        key = ""
        try:
            messages = conversation(prompt)
            key = prompt_key(messages, self._asking.sampling, self._form.spec if self._form else None)
            known = self._journal.take(key, index) if self._journal else None
            reply = self._with_output(known) if known else None
        except Exception as error:  # noqa: BLE001 - a prompt may be anything
            return self._failed(_Question(index, key, prompt, ()), error)
        return (
            Answered(index, key, prompt, reply=reply, resumed=True)
            if reply
            else _Question(index, key, prompt, messages)
        )

    def _with_output(self, reply: Reply[Any]) -> Reply[Any] | None:
        if self._form is None or reply.finish_reason != "stop":
            return reply
        try:
            return replace(reply, output=self._form.parse(reply.text))
        except MisfitError:
            return None  # the type has become stricter since

    def _failed(self, question: _Question, error: Exception) -> Failed[Any]:
        one = one_error(error, self._asking.client.capabilities.name, "")
        return Failed(question.index, question.key, question.prompt, error=one)

    async def _one(self, question: _Question, all_of_them: anyio.CancelScope) -> None:
        try:
            reply = await self._asking.ask(question.messages, question.index)
            outcome: AnyOutcome = Answered(question.index, question.key, question.prompt, reply=reply)
        except Exception as error:  # noqa: BLE001 - this is the edge where every failure becomes one error
            outcome = self._failed(question, error)
        try:
            await self._keep(outcome)
            self._answered.set()
        except Exception as error:  # noqa: BLE001 - what is not kept would be paid for twice: nothing goes on
            self.failure = error
            self._answered.set()
            all_of_them.cancel()
            return
        self._deliver(outcome)

    def _deliver(self, outcome: AnyOutcome) -> None:
        self.tally = self.tally.plus(outcome)
        self._send.send_nowait(outcome)
        self._running.release()

    async def _keep(self, outcome: AnyOutcome) -> None:
        if self._journal is None:
            return
        result = outcome.reply or outcome.error
        if result is None or (isinstance(result, Reply) and result.finish_reason in (None, "cancelled")):
            return  # no end that the model, or its limits, came to
        with anyio.CancelScope(shield=True):  # it is paid for
            await to_thread.run_sync(self._journal.name, self._asking.client.capabilities.model)
            await to_thread.run_sync(self._journal.write, outcome.key, outcome.index, result)

    async def _draw(self, bar: ProgressBar) -> None:
        try:
            while True:
                await to_thread.run_sync(bar.draw, self.tally)
                await anyio.sleep(_REDRAWN_EVERY)
        except (OSError, ValueError):
            return  # the terminal is gone; the work is not
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_close_bar, bar, self.tally)


async def _opened(path: str | os.PathLike[str], model: str) -> Journal:
    """Open a journal in a worker thread; one that is opened for a caller who was cancelled meanwhile is closed."""
    opened: list[Journal] = []

    def open_it() -> None:
        opened.append(Journal.open(path, model, check=from_thread.check_cancelled))

    try:
        await to_thread.run_sync(open_it)
        return opened[0]
    except BaseException:
        with anyio.CancelScope(shield=True):
            for journal in opened:
                await to_thread.run_sync(journal.close)
        raise


def _close_bar(bar: ProgressBar, tally: Tally) -> None:
    try:
        bar.close(tally)
    except (OSError, ValueError):
        return  # the terminal is gone
