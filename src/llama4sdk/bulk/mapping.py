"""Many prompts, a bounded number at a time: outcomes as they finish, or in order."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias

import anyio
from anyio import from_thread, to_thread

from llama4sdk.bulk.asking import Asking, Chats
from llama4sdk.bulk.bar import ProgressBar, open_bar
from llama4sdk.bulk.journal import Journal
from llama4sdk.bulk.key import prompt_key
from llama4sdk.bulk.outcome import Answered, Failed, Tally
from llama4sdk.bulk.source import PromptSource
from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import Message, Prompt, conversation
from llama4sdk.output import answer_form
from llama4sdk.output.form import MisfitError
from llama4sdk.owned_task import running_loop, start_owned
from llama4sdk.reply import Answer, Reply
from llama4sdk.request import Deadlines, Sampling
from llama4sdk.stream import one_error

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from anyio.abc import TaskGroup
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from llama4sdk.telemetry.hook import Telemetry

# Prompts that are taken and not yet read as outcomes, for each that may run: what keeps the backend busy
# while the reader is busy, and bounds what is held for it.
_ROOM = 2
_SHORT = 10_000  # characters that the loop may well hash by itself
_REDRAWN_EVERY = 0.2  # seconds
_Outcome: TypeAlias = Answered[Any] | Failed[Any]


@dataclass(frozen=True, slots=True)
class _Question:
    """A prompt that is to be asked."""

    index: int
    key: str
    prompt: Prompt
    messages: tuple[Message, ...]


def map_prompts(
    client: Chats,
    prompts: Iterable[Prompt] | AsyncIterable[Prompt],
    *,
    concurrency: int = 8,
    ordered: bool = False,
    journal: str | os.PathLike[str] | None = None,
    output: object = None,
    repair: int = 0,
    sampling: Sampling | None = None,
    deadlines: Deadlines | None = None,
    retries: int = 2,
    progress: bool | None = None,
    telemetry: Telemetry | None = None,
) -> Bulk[Any]:
    """Ask many prompts; return the work, to be entered with `async with` and read with `async for`.

    Args:
        client: Who is asked; `Llama4.map` hands itself in.
        prompts: An iterable of prompts, endless too, or an async one; read only as far as there is room. A
            plain one is read on the event loop, so one that has to wait should be async. An async generator
            is closed when the block is left.
        concurrency: How many are asked at the same time, 1 to 10,000.
        ordered: Whether outcomes come in the order of the prompts rather than as they finish.
        journal: A file that remembers finished prompts, so that the same call goes on after a crash.
        output: The form of a typed answer, as in `Llama4.stream`.
        repair: How often an answer that does not fit may be tried again, 0 to 5.
        sampling: How tokens are chosen.
        deadlines: How long each phase may take; `total` spans all tries of one prompt.
        retries: How often a prompt is asked again after an error that may pass, 0 to 10.
        progress: Whether a progress bar is shown on the terminal; None for one where rich is installed.
        telemetry: Observes each prompt.

    Raises:
        InvalidRequest: For arguments out of range.
    """
    _check_range("concurrency", concurrency, 1, 10_000)
    _check_range("retries", retries, 0, 10)
    _check_range("repair", repair, 0, 5)
    asking = Asking(client, output, repair, sampling or Sampling(), deadlines or Deadlines(), retries, telemetry)
    return Bulk(asking, prompts, concurrency=concurrency, ordered=ordered, journal=journal, progress=progress)


class Bulk(AsyncIterator[Answered[Answer] | Failed[Answer]], Generic[Answer]):
    """Bulk work under way; made by `Llama4.map`.

        async with llama.map(prompts) as outcomes:
            async for outcome in outcomes: …

    A prompt that fails becomes an outcome with an error, and ends nothing else. A slow reader holds the work
    up: at most twice as many prompts as may run at once are taken and not yet read. Leaving the block early
    cancels what runs. An error of the iterable itself is raised after the outcomes of what it had given.

    Args:
        asking: How each prompt is asked.
        prompts: The prompts.
        concurrency: How many are asked at the same time.
        ordered: Whether outcomes come in the order of the prompts.
        journal: The journal's path.
        progress: Whether a progress bar is shown.
    """

    def __init__(
        self,
        asking: Asking,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        concurrency: int,
        ordered: bool = False,
        journal: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> None:
        self._asking = asking
        self._form = answer_form(asking.output)
        self._prompts = PromptSource(prompts)
        self._concurrency = concurrency
        self._ordered = ordered
        self._path = journal
        self._progress = progress
        self._entered = False
        self._home: object = None  # the event loop that it runs in
        self._task: object = None
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._answered = anyio.Event()  # the first prompt, or another before it
        self._journal: Journal | None = None
        self._failure: Exception | None = None
        self._tally = Tally()
        self._early: dict[int, _Outcome] = {}
        self._next = 0
        self._running: anyio.Semaphore
        self._room: anyio.Semaphore
        self._send: MemoryObjectSendStream[_Outcome]
        self._receive: MemoryObjectReceiveStream[_Outcome]

    @property
    def tally(self) -> Tally:
        """How far the work is; outcomes that were not read yet count too."""
        return self._tally

    async def __aenter__(self) -> Self:
        if self._entered:
            raise InvalidRequest("Bulk work runs once; ask for another with llama.map(…).")
        self._entered = True
        room = _ROOM * self._concurrency
        self._running = anyio.Semaphore(self._concurrency)
        self._room = anyio.Semaphore(room)
        bar = await to_thread.run_sync(open_bar, self._progress, self._prompts.total)
        if self._path is not None:
            self._journal = await _opened(self._path, self._asking.client.capabilities.model)
        # As many as there is room for, so that sending never waits.
        self._send, self._receive = anyio.create_memory_object_stream[_Outcome](room)
        self._home = running_loop()
        self._task = start_owned(partial(self._main, bar))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._home is None:
            return
        if running_loop() != self._home:  # its loop has ended, and with it the task
            self._receive.close()
            return
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()
            self._receive.close()
            self._early.clear()
            if self._journal is not None:
                await to_thread.run_sync(self._journal.close)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Answered[Answer] | Failed[Answer]:
        if self._home is None:
            raise InvalidRequest("Enter the work first: async with llama.map(…) as outcomes.")
        if running_loop() != self._home:
            raise InvalidRequest("This work belongs to another event loop; read it in the loop that entered it.")
        outcome = await self._received()
        if outcome is None:
            raise self._failure or StopAsyncIteration
        self._next += 1
        self._room.release()
        return outcome

    async def _received(self) -> _Outcome | None:
        try:
            if not self._ordered:
                return await self._receive.receive()
            while self._next not in self._early:
                outcome = await self._receive.receive()
                self._early[outcome.index] = outcome
            return self._early.pop(self._next)
        except anyio.EndOfStream:
            return None
        except anyio.ClosedResourceError:
            raise InvalidRequest("The work's block was left; read it inside the block.") from None

    async def _main(self, bar: ProgressBar | None) -> None:
        """Run the work in a task of the event loop's own, whatever task enters and leaves the block."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._work)
                    if bar is not None:
                        tasks.start_soon(self._draw, bar)
        except Exception as error:  # noqa: BLE001 - the task's edge: raised to the reader
            self._failure = self._failure or error
        finally:
            self._ended.set()

    async def _work(self) -> None:
        with self._send:
            async with anyio.create_task_group() as asks:
                try:
                    await self._feed(asks)
                except Exception as error:  # noqa: BLE001 - the caller's own iterable may raise anything
                    self._failure = error

    async def _feed(self, asks: TaskGroup) -> None:
        index = 0
        try:
            while True:
                await self._room.acquire()
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

    async def _looked_up(self, index: int, prompt: Prompt) -> _Outcome | _Question:
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

    def _look_up(self, index: int, prompt: Prompt) -> _Outcome | _Question:
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
            outcome: _Outcome = Answered(question.index, question.key, question.prompt, reply=reply)
        except Exception as error:  # noqa: BLE001 - this is the edge where every failure becomes one error
            outcome = self._failed(question, error)
        try:
            await self._keep(outcome)
            self._answered.set()
        except Exception as error:  # noqa: BLE001 - what is not kept would be paid for twice: nothing goes on
            self._failure = error
            self._answered.set()
            all_of_them.cancel()
            return
        self._deliver(outcome)

    def _deliver(self, outcome: _Outcome) -> None:
        self._tally = self._tally.plus(outcome)
        self._send.send_nowait(outcome)
        self._running.release()

    async def _keep(self, outcome: _Outcome) -> None:
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
                await to_thread.run_sync(bar.draw, self._tally)
                await anyio.sleep(_REDRAWN_EVERY)
        except (OSError, ValueError):
            return  # the terminal is gone; the work is not
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_close_bar, bar, self._tally)


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


def _check_range(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"{name} is a whole number from {low} to {high}; got {value!r}.")
