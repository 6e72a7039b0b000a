"""The engine's thread: loads the model, then serves until it is stopped."""

from __future__ import annotations

import atexit
import copy
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import anyio

from llama4_local.engine.device_loss import is_device_lost
from llama4_local.engine.mailbox import EventLoop, Outbox
from llama4_local.engine.request import EngineRequest
from llama4sdk.errors import LlamaError, ServerFault
from llama4sdk.events import Progress

if TYPE_CHECKING:
    from llama4_local.engine.engine import Engine
    from llama4_local.engine.load import EngineLoad

T = TypeVar("T")


class Report(Protocol):
    """Receives the progress of a model that is being loaded."""

    def __call__(self, done: int, total: int, phase: str = "loading", unit: str = "bytes") -> None:
        """Report units done and in all."""
        ...


# Loads the model and returns an engine that writes to the outbox.
Build = Callable[[Outbox, Report], "Engine"]

_REPORT_EVERY = 0.05  # seconds between two reports of a loading model
_EXIT_PATIENCE = 10.0  # seconds that interpreter exit waits for a step to end


@dataclass(frozen=True, slots=True)
class _Cancel:
    engine_request: EngineRequest


@dataclass(frozen=True, slots=True)
class _Wake:
    """A reader has caught up, or a rank is gone."""


@dataclass(frozen=True, slots=True)
class _Close:
    pass


@dataclass(frozen=True, slots=True)
class _Ask:
    """A call on the engine between two steps; `answer` gets its result on the loop."""

    work: Callable[[Engine], object]
    answer: Callable[[object], None]


_Command = EngineRequest | _Cancel | _Wake | _Close | _Ask


class _Closing(Exception):
    """The thread was stopped."""


class EngineThread:
    """Owns the engine, and with it the device, in a thread of its own.

    `submit`, `cancel`, `wake` and `stop` may be called from any thread and return at once.

    Args:
        build: Loads the model.
        loop: The readers' event loop; the thread ends when that loop is closed.
    """

    def __init__(self, build: Build, loop: EventLoop) -> None:
        self._build = build
        self._loop = loop
        self._inbox: SimpleQueue[_Command] = SimpleQueue()
        self._outbox = Outbox()
        self._engine_requests: dict[EngineRequest, None] = {}  # accepted before the engine is loaded
        self._asked: list[_Ask] = []  # the same
        self._engine: Engine | None = None
        self._lock = threading.Lock()
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
        """The error that ended the thread, a copy to raise; None while it serves."""
        return None if self._ended is None else _copy(self._ended)

    @property
    def load(self) -> EngineLoad | None:
        """The engine's load after its last step; None while the model loads."""
        return self._engine.load if self._engine else None

    @property
    def loading(self) -> bool:
        """Whether the model is being loaded."""
        return self._engine is None and self._ended is None

    def submit(self, engine_request: EngineRequest) -> None:
        """Submit a request; its events come to its mailbox.

        Raises:
            LlamaError: The thread has ended.
        """
        self._enqueue(engine_request)

    async def ask(self, work: Callable[[Engine], T]) -> T:
        """Call a function on the engine between two steps, and return its result.

        Args:
            work: Called in the engine's thread; no longer than a step. Once begun it is not cancelled; a cancelled
                caller loses only its result.

        Raises:
            LlamaError: The thread has ended, or whatever `work` raises.
        """
        done = anyio.Event()
        results: list[object] = []

        def answer(result: object) -> None:
            results.append(result)
            done.set()

        self._enqueue(_Ask(work, answer))
        await done.wait()
        if isinstance(results[0], BaseException):
            raise results[0]
        return cast("T", results[0])

    def post(self, work: Callable[[Engine], object]) -> None:
        """Call a function on the engine between two steps and drop its result; from any thread."""
        self._inbox.put(_Ask(work, _ignore))

    def cancel(self, engine_request: EngineRequest) -> None:
        """Forget a request and free its pages before the next step."""
        self._inbox.put(_Cancel(engine_request))

    def wake(self) -> None:
        """Take the next step, which reconsiders requests that wait for their readers, and looks for lost ranks."""
        self._inbox.put(_Wake())

    def stop(self) -> None:
        """End the thread after the step in flight."""
        self._inbox.put(_Close())

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()
        atexit.unregister(self._leave)

    def _enqueue(self, command: _Command) -> None:
        with self._lock:
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
        except Exception as error:  # noqa: BLE001 - the thread's edge: the error goes to every reader
            reason = ServerFault(f"The engine broke down with {type(error).__name__}; see __cause__.", retryable=False)
            reason.__cause__ = error
        self._end(reason)

    def _load(self) -> Engine:
        engine = self._engine = self._build(self._outbox, self._loading)
        engine.when_lost(self.wake)
        for engine_request in self._engine_requests:
            engine.submit(engine_request)
        for asked in self._asked:
            self._do(engine, asked)
        self._engine_requests.clear()
        self._asked.clear()
        return engine

    def _serve(self, engine: Engine) -> None:
        while True:
            self._send()
            self._attend(wait=engine.idle)
            try:
                engine.step()
            except Exception as error:
                if is_device_lost(error):
                    raise
                # A fault of the scheduler itself: its requests end, and the engine starts from an empty schedule.
                engine.fail(partial(_broken, error))

    def _attend(self, *, wait: bool) -> None:
        """Carry out the commands in the inbox.

        Args:
            wait: Whether to wait for one.
        """
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
                    self._engine_requests[command] = None
            case _Cancel(engine_request):
                self._engine_requests.pop(engine_request, None)
                if self._engine:
                    self._engine.cancel(engine_request)
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
        except Exception as error:  # noqa: BLE001 - the caller gets it
            result = error
        self._answer(asked, result)

    def _answer(self, asked: _Ask, result: object) -> None:
        self._loop.call(lambda: asked.answer(result))

    def _loading(self, done: int, total: int, phase: str = "loading", unit: str = "bytes") -> None:
        """Between two tensors or warm-up steps: read the inbox, and report progress to waiting requests."""
        self._attend(wait=False)
        now = time.monotonic()
        if done < total and now - self._reported < _REPORT_EVERY:
            return
        self._reported = now
        for engine_request in self._engine_requests:
            self._outbox.put(engine_request.mailbox, Progress(phase, done, total, unit))
        self._send()

    def _send(self) -> None:
        if not self._outbox.send(self._loop):
            raise _Closing

    def _end(self, reason: LlamaError) -> None:
        """Refuse further commands, and end every waiting request with the reason."""
        with self._lock:
            self._ended = reason
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, EngineRequest):
                self._engine_requests[command] = None
            elif isinstance(command, _Ask):
                self._asked.append(command)
        for asked in self._asked:
            self._answer(asked, _copy(reason))
        for engine_request in self._engine_requests:
            self._outbox.put(engine_request.mailbox, _copy(reason))
        if self._engine:
            self._engine.fail(lambda: _copy(reason))
            self._engine.close()
        self._engine = None
        self._outbox.send(self._loop)


def _broken(error: Exception) -> LlamaError:
    fault = ServerFault(f"The engine failed with {type(error).__name__}; see __cause__.", retryable=False)
    fault.__cause__ = error
    return fault


def _ignore(_: object) -> None:
    """Drop a result."""


def _copy(error: LlamaError) -> LlamaError:
    """A copy to raise, so that several readers do not extend one traceback."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin
