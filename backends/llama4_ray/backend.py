"""The backend: replicas that Ray places, asked over the SDK's own wire."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from llama4_ray import cluster
from llama4_ray.fleet import Fleet
from llama4_ray.scaling import Scaling
from llama4_ray.settings import Settings
from llama4sdk.backend import Capabilities
from llama4sdk.errors import InvalidRequest, ServerFault, Unreachable
from llama4sdk.owned_task import start_owned
from llama4sdk.routing import Balanced
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from llama4_ray.cluster import Connection, Placed
    from llama4sdk.backend import BackendLoad, KeptSession
    from llama4sdk.events import Event, TokenLogprob
    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.request import RawPrompt, Request

_ENDED = "The Ray cluster that was started on this machine has ended, and its replicas with it; make another backend."
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


class RayBackend:
    """Runs replicas of a backend as actors on a Ray cluster, and spreads requests over them as `Balanced` does.

        async with Llama4(RayBackend("local:/models/scout", replicas=4, gpus=1, quantize="int4")) as llama: …

    Ray places each replica, gives it its GPUs and tells of its end; requests go straight to the replicas, over HTTP
    with a key made for each. Without a cluster, one is started on this machine, and ended with the backend. A
    replica that dies ends its streams with `StreamInterrupted`, which `Fallback` around this backend (or `resume=True`)
    mends at another replica; in its place a new one is started. A replica with `tensor_parallel=N` gets its share of
    one node in a placement group of its own.

    Args:
        spec: The backend in each replica, as `Llama4` takes it.
        replicas: How many there are at the beginning.
        min_replicas: Fewest replicas; left out, `replicas`.
        max_replicas: Most replicas; left out, `replicas`.
        queue: Running requests for each replica, beyond which another one is started.
        idle: Seconds for which fewer replicas must suffice before one is stopped.
        cpus: CPU cores that each replica takes in Ray's books; left out, one for each of its ranks.
        gpus: GPUs that each replica gets, all of one node; one for each of its ranks, or none.
        address: The cluster's address; left out, that of the environment, else one is started on this machine.
        host: The address on which replicas listen; left out, each node's own: 127.0.0.1 in a cluster started here.
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
        cpus: float | None = None,
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
        self._fleet = Fleet(self._settings, self._scaling, tokenizer)
        self._balanced: Balanced | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._starting: anyio.CancelScope | None = None
        self._settled: anyio.Event | None = None  # set when the start has ended
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
        return len(self._fleet.placed)

    @property
    def placed(self) -> tuple[Placed, ...]:
        """The replicas that run."""
        return tuple(self._fleet.placed)

    @property
    def prompt_template(self) -> PromptTemplate:
        """The template of the tokenizer that was given.

        Raises:
            InvalidRequest: When none was given.
        """
        return self._started.prompt_template

    @property
    def current_load(self) -> BackendLoad | None:
        """None: the replicas report theirs on `/metrics`; see `requests_running`."""
        return None if self._balanced is None else self._balanced.current_load

    async def start(self) -> None:
        """Attach to the cluster, or start one, and start the replicas.

        Raises:
            BackendMissing: Ray is not installed.
            InvalidRequest: The cluster was started here, and this machine does not hold so many replicas.
            LlamaError: A replica can never serve, or the backend was closed meanwhile.
        """
        if self._settled is not None or self._closed:
            raise InvalidRequest("A Ray backend is started once; make another one.")
        self._starting, self._settled = anyio.CancelScope(), anyio.Event()
        try:
            with anyio.CancelScope(shield=True):  # a cluster that is being started has to be ended too
                self._connection = await run_in_daemon_thread(partial(cluster.connect, self._address))
            with self._starting:
                await self._start_replicas()
        finally:
            self._settled.set()
        if self._closed:
            raise ServerFault("The Ray backend was closed while it started.", backend="ray", retryable=False)

    async def _start_replicas(self) -> None:
        if self._connection is None:
            return
        capacity = await run_in_daemon_thread(partial(self._connection.capacity, self._settings))
        await self._fleet.start(self._first, capacity)
        self._balanced = Balanced(*self._fleet.placed.values(), resume=self._resume)
        await self._balanced.start()
        self._watching, self._watched = anyio.CancelScope(), anyio.Event()
        self._task = start_owned(partial(self._watch, self._balanced, self._watching, self._watched))

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run one request at a replica; see `Backend.open`."""
        return self._started.open(request)

    async def ready(self) -> None:
        """Wait until all replicas have loaded their models, as those have that `start` has placed.

        Raises:
            LlamaError: None can serve.
        """
        await self._started.ready()

    async def requests_running(self) -> int | None:
        """Return how many requests the replicas run.

        Raises:
            LlamaError: One cannot be asked.
        """
        return await self._started.requests_running()

    async def score_prompt(self, raw: RawPrompt, *, top: int = 0) -> tuple[TokenLogprob, ...]:
        """Return the log-probability of every token of a prompt, scored by one replica; see `ScoresPrompts`.

        Raises:
            LlamaError: The prompt cannot be scored.
        """
        return await self._started.score_prompt(raw, top=top)

    async def session(self, request: Request) -> KeptSession:
        """Refuse: the wire between caller and replicas keeps no sessions.

        Raises:
            InvalidRequest: Always.
        """
        return await self._started.session(request)

    async def restore(self, path: str | os.PathLike[str]) -> KeptSession:
        """Refuse, as `session` does.

        Raises:
            InvalidRequest: Always.
        """
        return await self._started.restore(path)

    async def aclose(self) -> None:
        """End the requests and the replicas, and the cluster where it was started here; may be called twice."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
        with anyio.CancelScope(shield=True):
            if self._settled is not None:
                await self._settled.wait()
            if self._watching is not None:
                self._watching.cancel()
            if self._watched is not None:
                await self._watched.wait()
            if self._balanced is not None:
                await self._balanced.aclose()
            await self._fleet.stop()
            connection, self._connection = self._connection, None
            if connection is not None:
                await run_in_daemon_thread(connection.close)

    def __repr__(self) -> str:
        return f"RayBackend({self._settings.spec!r}, replicas={self.replicas})"

    @property
    def _started(self) -> Balanced:
        if self._balanced is None:
            raise InvalidRequest("Start the backend first: await backend.start().", backend="ray")
        if self._connection is not None and self._connection.ended:
            raise Unreachable(_ENDED, backend="ray", retryable=False)
        return self._balanced

    async def _watch(self, balanced: Balanced, watching: anyio.CancelScope, watched: anyio.Event) -> None:
        try:
            with watching:
                if self._connection is not None:
                    await self._fleet.keep(balanced, self._connection)
        finally:
            watched.set()


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of `RayBackend` itself, and those of the backend in each replica."""
    own = {name: value for name, value in options.items() if name in _OWN}
    return own, {name: value for name, value in options.items() if name not in _OWN}
