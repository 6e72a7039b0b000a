"""The engine's thread: it loads the model, then serves until it is told to stop."""

from __future__ import annotations

import atexit
import copy
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import anyio

from llama4_local.engine.mailbox import EventLoop, Outbox
from llama4_local.engine.request import EngineRequest
from llama4sdk.errors import LlamaError, ServerFault
from llama4sdk.events import Progress

if TYPE_CHECKING:
    from llama4_local.engine.engine import Engine, EngineLoad

T = TypeVar("T")


class Report(Protocol):
    """Takes note of how far a model is that is being loaded."""

    def __call__(self, done: int, total: int, phase: str = "loading", unit: str = "bytes") -> None:
        """Be told of what is done and what there is to do."""
        ...


# Loads the model and returns an engine that speaks into the outbox.
Build = Callable[[Outbox, Report], "Engine"]

_REPORT_EVERY = 0.05  # seconds between two reports of a loading model
_EXIT_PATIENCE = 10.0  # seconds that a leaving interpreter waits for a step to end


@dataclass(frozen=True, slots=True)
class _Cancel:
    order: EngineRequest


@dataclass(frozen=True, slots=True)
class _Wake:
    """A reader has caught up."""


@dataclass(frozen=True, slots=True)
class _Close:
    pass


@dataclass(frozen=True, slots=True)
class _Ask:
    """Something to do with the engine between two steps; `answer` is called on the loop."""

    work: Callable[[Engine], object]
    answer: Callable[[object], None]


_Command = EngineRequest | _Cancel | _Wake | _Close | _Ask


class _Closing(Exception):
    """The thread was told to stop."""


class EngineThread:
    """Owns the engine, and with it the device, in a thread of its own.

    `submit`, `cancel`, `wake` and `stop` may be called from any thread and return at once.

    Args:
        build: Loads the model.
        loop: Where the readers live; the thread ends when that loop is closed.
    """

    def __init__(self, build: Build, loop: EventLoop) -> None:
        self._build = build
        self._loop = loop
        self._inbox: SimpleQueue[_Command] = SimpleQueue()
        self._outbox = Outbox()
        self._orders: dict[EngineRequest, None] = {}  # taken from the inbox before there is an engine
        self._asked: list[_Ask] = []  # the same
        self._engine: Engine | None = None
        self._door = threading.Lock()
        self._ended: LlamaError | None = None
        self._reported = 0.0
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._main, name="llama4_local engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        atexit.register(self._leave)
        self._thread.start()

    @property
    def ended(self) -> LlamaError | None:
        """Why nothing is served any more, or None while it is; a copy to raise."""
        return None if self._ended is None else _copy(self._ended)

    @property
    def load(self) -> EngineLoad | None:
        """What the engine held after its last step; None while the model loads."""
        return self._engine.load if self._engine else None

    def submit(self, order: EngineRequest) -> None:
        """Hand an order in; its events come to its mailbox.

        Raises:
            LlamaError: The thread has ended; the error says why.
        """
        self._let_in(order)

    async def ask(self, work: Callable[[Engine], T]) -> T:
        """Have something done with the engine between two steps, and return what came of it.

        Args:
            work: Called in the engine's thread; takes no longer than a step should. Once begun it is not
                cancelled, only its result is forgotten.

        Raises:
            LlamaError: The thread has ended, or whatever `work` raises.
        """
        done = anyio.Event()
        results: list[object] = []

        def answer(result: object) -> None:
            results.append(result)
            done.set()

        self._let_in(_Ask(work, answer))
        await done.wait()
        if isinstance(results[0], BaseException):
            raise results[0]
        return cast("T", results[0])

    def post(self, work: Callable[[Engine], object]) -> None:
        """Have something done with the engine that nobody waits for; may be called from any thread."""
        self._inbox.put(_Ask(work, _ignore))

    def cancel(self, order: EngineRequest) -> None:
        """Have an order forgotten and what it holds freed before the next step."""
        self._inbox.put(_Cancel(order))

    def wake(self) -> None:
        """Have the engine look again at requests that waited for their readers."""
        self._inbox.put(_Wake())

    def stop(self) -> None:
        """Have the thread end after the step in flight."""
        self._inbox.put(_Close())

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()
        atexit.unregister(self._leave)

    def _let_in(self, command: _Command) -> None:
        with self._door:
            if self._ended is not None:
                raise _copy(self._ended)
            self._inbox.put(command)

    def _leave(self) -> None:
        if os.getpid() == self._process:  # a forked child has no such thread
            self.stop()
            self._thread.join(_EXIT_PATIENCE)

    def _main(self) -> None:
        reason: LlamaError = ServerFault("The local backend is closed; make another one.", retryable=False)
        try:
            self._serve(self._load())
        except _Closing:
            pass
        except LlamaError as error:
            reason = error
        except Exception as error:  # noqa: BLE001 - the thread's edge: every reader gets to know why it ended
            reason = ServerFault(f"The engine broke down with {type(error).__name__}; see __cause__.", retryable=False)
            reason.__cause__ = error
        self._end(reason)

    def _load(self) -> Engine:
        engine = self._build(self._outbox, self._loading)
        for order in self._orders:
            engine.submit(order)
        for asked in self._asked:
            self._do(engine, asked)
        self._orders.clear()
        self._asked.clear()
        self._engine = engine
        return engine

    def _serve(self, engine: Engine) -> None:
        while True:
            self._send()
            self._attend(wait=engine.idle)
            engine.step()

    def _attend(self, *, wait: bool) -> None:
        """Carry out what has come in; if there is nothing else to do, wait for something."""
        try:
            while True:
                self._carry_out(self._inbox.get(block=wait))
                wait = False
        except Empty:
            pass

    def _carry_out(self, command: _Command) -> None:
        match command:
            case EngineRequest():
                if self._engine:
                    self._engine.submit(command)
                else:
                    self._orders[command] = None
            case _Cancel(order):
                self._orders.pop(order, None)
                if self._engine:
                    self._engine.cancel(order)
            case _Ask():
                if self._engine:
                    self._do(self._engine, command)
                else:
                    self._asked.append(command)
            case _Close():
                raise _Closing
            case _Wake():
                pass

    def _do(self, engine: Engine, asked: _Ask) -> None:
        result: object
        try:
            result = asked.work(engine)
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            result = error
        self._answer(asked, result)

    def _answer(self, asked: _Ask, result: object) -> None:
        self._loop.call(lambda: asked.answer(result))

    def _loading(self, done: int, total: int, phase: str = "loading", unit: str = "bytes") -> None:
        """Between two tensors or steps: look into the inbox, and tell those who wait how far it is."""
        self._attend(wait=False)
        now = time.monotonic()
        if done < total and now - self._reported < _REPORT_EVERY:
            return
        self._reported = now
        for order in self._orders:
            self._outbox.put(order.mailbox, Progress(phase, done, total, unit))
        self._send()

    def _send(self) -> None:
        if not self._outbox.send(self._loop):
            raise _Closing

    def _end(self, reason: LlamaError) -> None:
        """Let nothing more in, and tell everybody who still waits."""
        with self._door:
            self._ended = reason
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, EngineRequest):
                self._orders[command] = None
            elif isinstance(command, _Ask):
                self._asked.append(command)
        for asked in self._asked:
            self._answer(asked, _copy(reason))
        for order in self._orders:
            self._outbox.put(order.mailbox, _copy(reason))
        if self._engine:
            self._engine.fail(lambda: _copy(reason))
            self._engine.close()
        self._engine = None
        self._outbox.send(self._loop)


def _ignore(_: object) -> None:
    """Nobody waits for it."""


def _copy(error: LlamaError) -> LlamaError:
    """A copy to raise: several readers shall not add to one traceback."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin
