"""The backend: replicas that Ray places, asked over the SDK's own wire."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from llama4_ray import cluster
from llama4_ray.scaling import Scaler, Scaling
from llama4_ray.settings import Settings
from llama4sdk.backend import Capabilities
from llama4sdk.errors import InvalidRequest, LlamaError
from llama4sdk.owned_task import start_owned
from llama4sdk.registry import open_backend
from llama4sdk.routing import Balanced
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from llama4_ray.cluster import Connection, Placed
    from llama4sdk.backend import Backend
    from llama4sdk.events import Event
    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.request import Request

_OWN = (
    "replicas",
    "min_replicas",
    "max_replicas",
    "queue",
    "idle",
    "cpus",
    "gpus",
    "address",
    "host",
    "start_seconds",
    "resume",
    "tokenizer",
)
_WATCH = 1.0  # seconds from one look at the replicas to the next
_CONNECTIONS = 1000  # requests under way at one replica


class RayBackend:
    """Runs replicas of a backend as actors on a Ray cluster, and spreads requests over them as `Balanced` does.

        async with Llama4(RayBackend("local:/models/scout", replicas=4, gpus=1, quantize="int4")) as llama: …

    Ray places each replica, gives it its GPUs and tells of its end; requests go straight to the replicas, over HTTP
    with a key made for this backend. Without a cluster, one is started on this machine, and ended with the backend. A
    replica that dies ends its streams with `StreamInterrupted`, which `Fallback` around this backend (or `resume=True`)
    mends at another replica; in its place a new one is started.

    Args:
        spec: The backend in each replica, as `Llama4` takes it.
        replicas: How many there are at the beginning.
        min_replicas: Fewest replicas; left out, `replicas`.
        max_replicas: Most replicas; left out, `replicas`.
        queue: Running requests for each replica, beyond which another one is started.
        idle: Seconds for which fewer replicas must suffice before one is stopped.
        cpus: CPU cores that each replica takes in Ray's books.
        gpus: GPUs that each replica gets, all of one node.
        address: The cluster's address; left out, that of the environment, else one is started on this machine.
        host: The address on which replicas listen; left out, each node's own.
        start_seconds: Most seconds for a replica to be placed and to load.
        resume: Whether answers of a replica that dies go on at another one.
        tokenizer: The model's tokenizer or its file, to render and count prompts.
        options: Of the backend in each replica.

    Raises:
        InvalidRequest: For choices out of range.
    """

    def __init__(
        self,
        spec: str = "local",
        replicas: int = 1,
        *,
        min_replicas: int | None = None,
        max_replicas: int | None = None,
        queue: int = 16,
        idle: float = 60.0,
        cpus: float = 1.0,
        gpus: float = 0.0,
        address: str | None = None,
        host: str | None = None,
        start_seconds: float = 1800.0,
        resume: bool = False,
        tokenizer: object = None,
        **options: object,
    ) -> None:
        self._settings = Settings(spec, options, cpus, gpus, host, start_seconds)
        least = replicas if min_replicas is None else min_replicas
        most = max(replicas, least) if max_replicas is None else max_replicas
        self._scaling = Scaling(least, most, queue, idle)
        if not least <= replicas <= most:
            raise InvalidRequest(f"replicas ({replicas}) lies from min_replicas ({least}) to max_replicas ({most}).")
        self._first = replicas
        self._address = address
        self._resume = resume
        self._tokenizer = tokenizer
        self._key = secrets.token_urlsafe(32)
        self._placed: dict[Placed, Backend] = {}
        self._balanced: Balanced | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._watching: anyio.CancelScope | None = None
        self._watched: anyio.Event | None = None
        self._task: object = None

    @property
    def capabilities(self) -> Capabilities:
        """Those of the replicas; more is known after `start`."""
        if self._balanced is None:
            return Capabilities("ray", self._settings.spec)
        return replace(self._balanced.capabilities, name="ray")

    @property
    def replicas(self) -> int:
        """How many replicas run."""
        return len(self._placed)

    @property
    def placed(self) -> tuple[Placed, ...]:
        """The replicas that run."""
        return tuple(self._placed)

    @property
    def prompt_template(self) -> PromptTemplate:
        """The template of the tokenizer that was given.

        Raises:
            InvalidRequest: When none was given.
        """
        if self._balanced is None:
            raise InvalidRequest("Start the backend first: await backend.start().")
        return self._balanced.prompt_template

    async def start(self) -> None:
        """Attach to the cluster, or start one, and start the replicas.

        Raises:
            BackendMissing: Ray is not installed.
            LlamaError: A replica can never serve.
        """
        if self._balanced is not None or self._closed:
            raise InvalidRequest("A Ray backend is started once; make another one.")
        self._connection = await run_in_daemon_thread(partial(cluster.connect, self._address))
        backends: list[Backend] = []

        async def place() -> None:
            backends.append(await self._place())

        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(self._first):
                    tasks.start_soon(place)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        self._balanced = Balanced(*backends, resume=self._resume)
        await self._balanced.start()
        self._watching, self._watched = anyio.CancelScope(), anyio.Event()
        self._task = start_owned(partial(self._watch, self._watching, self._watched))

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run one request at a replica; see `Backend.open`."""
        if self._balanced is None:
            raise InvalidRequest("Start the backend first: await backend.start().", backend="ray")
        return self._balanced.open(request)

    async def aclose(self) -> None:
        """End the requests and the replicas, and the cluster where it was started here; may be called twice."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        with anyio.CancelScope(shield=True):
            if self._watched is not None:
                await self._watched.wait()
            if self._balanced is not None:
                await self._balanced.aclose()
            async with anyio.create_task_group() as tasks:
                for replica in tuple(self._placed):
                    del self._placed[replica]
                    tasks.start_soon(run_in_daemon_thread, partial(cluster.stop, replica))
            connection, self._connection = self._connection, None
            if connection is not None:
                await run_in_daemon_thread(connection.close)

    def __repr__(self) -> str:
        return f"RayBackend({self._settings.spec!r}, replicas={self.replicas})"

    async def _place(self) -> Backend:
        """Start one more replica; return the backend that asks it."""
        placed = await run_in_daemon_thread(partial(cluster.place, self._settings, self._key))
        options: dict[str, Any] = {"api_key": self._key, "max_connections": _CONNECTIONS, "profile": "llama4sdk"}
        if self._tokenizer is not None:
            options["tokenizer"] = self._tokenizer
        backend = open_backend(placed.url + "/v1", **options)
        self._placed[placed] = backend
        return backend

    async def _watch(self, watching: anyio.CancelScope, watched: anyio.Event) -> None:
        """Replace replicas that died, and keep their number to the queue."""
        try:
            with watching:
                scaler = Scaler(self._scaling, anyio.current_time())
                while True:
                    await anyio.sleep(_WATCH)
                    try:
                        await self._tend(scaler)
                    except LlamaError:
                        await anyio.sleep(_WATCH * 5)  # no replica can be placed now; those that run go on
        finally:
            watched.set()

    async def _tend(self, scaler: Scaler) -> None:
        balanced = self._balanced
        if balanced is None:
            return
        for replica in await run_in_daemon_thread(partial(cluster.dead, tuple(self._placed))):
            await balanced.members.remove(self._placed.pop(replica))
        running = sum(member.running for member in balanced.members.all)
        target = scaler.target(max(self.replicas, self._scaling.least), running, anyio.current_time())
        if target > self.replicas:
            await balanced.members.add(await self._place())
        elif target < self.replicas:
            await self._retire(balanced)

    async def _retire(self, balanced: Balanced) -> None:
        """Drain the least busy replica and stop it."""
        replica = min(self._placed, key=lambda replica: balanced.members.of(self._placed[replica]).running)
        await balanced.drain(self._placed[replica])
        await balanced.members.remove(self._placed.pop(replica))
        await run_in_daemon_thread(partial(cluster.stop, replica))


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of `RayBackend` itself, and those of the backend in each replica."""
    own = {name: value for name, value in options.items() if name in _OWN}
    return own, {name: value for name, value in options.items() if name not in _OWN}
