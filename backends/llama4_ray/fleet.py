"""The replicas of a `RayBackend`: started, watched, replaced, and as many as the queue asks for."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from llama4_ray import cluster
from llama4_ray.pulse import Pulse
from llama4_ray.scaling import Scaler
from llama4sdk.errors import InvalidRequest
from llama4sdk.registry import open_backend
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from llama4_ray.cluster import Connection, Placed
    from llama4_ray.scaling import Scaling
    from llama4_ray.settings import Settings
    from llama4sdk.backend import Backend
    from llama4sdk.routing import Balanced

_LOG = logging.getLogger("llama4_ray")
_WATCH = 1.0  # seconds from one look at the replicas to the next
_NOTICE = 5.0  # seconds in which the streams of a replica that died break by themselves
_PAUSE = 5.0  # seconds after a replica that could not be started
_CONNECTIONS = 1000  # requests under way at one replica


class Fleet:
    """Replicas, each with the backend that asks it.

    Args:
        settings: What runs in each, and its share of the cluster.
        scaling: How many there are.
        tokenizer: The model's tokenizer or its file; None for none.
    """

    def __init__(self, settings: Settings, scaling: Scaling, tokenizer: object) -> None:
        self._settings = settings
        self._scaling = scaling
        self._tokenizer = tokenizer
        self.placed: dict[Placed, Backend] = {}
        """Those that run, draining ones too."""
        self._starting = 0
        self._draining: dict[Placed, anyio.CancelScope] = {}
        self._capacity: int | None = None
        self._pulse = Pulse()

    async def start(self, count: int, capacity: int | None) -> None:
        """Start the first replicas.

        Args:
            count: How many.
            capacity: How many the cluster holds; None where it may grow.

        Raises:
            InvalidRequest: The cluster does not hold so many.
            LlamaError: One can never serve.
        """
        self._capacity = capacity
        if capacity is not None and count > capacity:
            raise InvalidRequest(
                f"This machine has room for {capacity} replicas with {self._settings} each, not for {count}; give "
                "fewer replicas=, other cpus= or gpus=, or the address= of a cluster.",
                backend="ray",
            )
        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(self._start_one)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def keep(self, balanced: Balanced, connection: Connection) -> None:
        """Replace replicas that die, and keep their number to the queue, until cancelled or the cluster has ended."""
        scaler = Scaler(self._scaling, anyio.current_time())
        async with anyio.create_task_group() as tasks:
            while not connection.ended:
                await anyio.sleep(_WATCH)
                try:
                    await self._find_dead(balanced, tasks)
                    self._adjust(balanced, scaler, tasks)
                except Exception as error:  # noqa: BLE001 - the cluster may come back, and replicas may serve without it
                    _LOG.warning("the replicas could not be looked at: %s", type(error).__name__)
            _LOG.error("the cluster has ended")
            self.placed.clear()  # their processes have ended with it
            tasks.cancel_scope.cancel()

    async def stop(self) -> None:
        """End all replicas."""
        async with anyio.create_task_group() as tasks:
            while self.placed:
                replica, _ = self.placed.popitem()
                tasks.start_soon(run_in_daemon_thread, partial(cluster.stop, replica))

    async def _start_one(self) -> None:
        placed, backend = await self._place()
        self.placed[placed] = backend

    async def _place(self) -> tuple[Placed, Backend]:
        abandoned = threading.Event()
        try:
            placed = await run_in_daemon_thread(partial(cluster.place, self._settings, abandoned))
        finally:
            abandoned.set()
        options: dict[str, Any] = {"api_key": placed.key, "max_connections": _CONNECTIONS, "profile": "llama4sdk"}
        if self._tokenizer is not None:
            options["tokenizer"] = self._tokenizer
        return placed, open_backend(placed.url + "/v1", **options)

    async def _find_dead(self, balanced: Balanced, tasks: TaskGroup) -> None:
        for find, what in ((cluster.dead, "has ended"), (self._pulse.silent, "does not answer any more")):
            for replica in await run_in_daemon_thread(partial(find, tuple(self.placed))):
                backend = self.placed.pop(replica, None)
                if backend is None:  # it was stopped meanwhile
                    continue
                _LOG.warning("a replica %s: %s", what, replica.url)
                self._keep_on(balanced, replica)
                balanced.members.of(backend).draining = True
                tasks.start_soon(self._bury, balanced, replica, backend)

    async def _bury(self, balanced: Balanced, replica: Placed, backend: Backend) -> None:
        """Kill a replica, so that its streams find their connections broken, and end those that do not."""
        try:
            try:
                with anyio.move_on_after(_NOTICE, shield=True):  # a cluster that is gone may never answer
                    await run_in_daemon_thread(partial(cluster.bury, replica))
                with anyio.move_on_after(_NOTICE):
                    await balanced.drain(backend)
            finally:
                with anyio.CancelScope(shield=True):
                    await balanced.members.remove(backend)
        except Exception as error:  # noqa: BLE001 - as above
            _LOG.warning("a dead replica could not be forgotten: %s", type(error).__name__)

    def _adjust(self, balanced: Balanced, scaler: Scaler, tasks: TaskGroup) -> None:
        """Start or stop replicas, as the queue asks for it."""
        least, members = self._scaling.least, balanced.members.all
        count = len(self.placed) - len(self._draining) + self._starting
        target = scaler.target(max(count, least), sum(member.running for member in members), anyio.current_time())
        if self._capacity is not None:
            target = min(target, self._capacity)
        while target > count and self._draining:
            self._keep_on(balanced, next(iter(self._draining)))
            count += 1
        for _ in range(target - count):
            self._starting += 1
            tasks.start_soon(self._add, balanced)
        if target < count and not self._starting:
            self._let_go(balanced, tasks)

    async def _add(self, balanced: Balanced) -> None:
        """Start one more replica; after a failure, pause."""
        try:
            placed, backend = await self._place()
            try:
                await balanced.members.add(backend)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await run_in_daemon_thread(partial(cluster.stop, placed))
                raise
            self.placed[placed] = backend
        except Exception as error:  # noqa: BLE001 - those that run go on serving
            _LOG.warning("no further replica could be started: %s", error)
            await anyio.sleep(_PAUSE)
        finally:
            self._starting -= 1

    def _let_go(self, balanced: Balanced, tasks: TaskGroup) -> None:
        """Begin to drain the least busy replica."""
        staying = [replica for replica in self.placed if replica not in self._draining]
        replica = min(staying, key=lambda replica: balanced.members.of(self.placed[replica]).running)
        self._draining[replica] = anyio.CancelScope()
        tasks.start_soon(self._drain, balanced, replica)

    def _keep_on(self, balanced: Balanced, replica: Placed) -> None:
        """Let a replica take requests again that was being drained."""
        scope = self._draining.pop(replica, None)
        if scope is not None:
            scope.cancel()
            if (backend := self.placed.get(replica)) is not None:
                balanced.undrain(backend)

    async def _drain(self, balanced: Balanced, replica: Placed) -> None:
        """Wait for a replica's requests, and stop it."""
        backend = self.placed[replica]
        with self._draining[replica]:
            await balanced.drain(backend)
        if self._draining.pop(replica, None) is None:  # it is needed again, or has died
            return
        del self.placed[replica]
        try:
            with anyio.CancelScope(shield=True):
                await balanced.members.remove(backend)
                await run_in_daemon_thread(partial(cluster.stop, replica))
        except Exception as error:  # noqa: BLE001 - without the cluster there is nothing left to stop
            _LOG.warning("a replica could not be stopped: %s", type(error).__name__)
