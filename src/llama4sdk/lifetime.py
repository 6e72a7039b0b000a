"""The life of a client: its backend is chosen, started and closed."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import anyio

from llama4sdk.backend import Backend, BecomesReady, Capabilities
from llama4sdk.checks import shown
from llama4sdk.environment import backend_named
from llama4sdk.errors import InvalidRequest
from llama4sdk.guards.automatic import automatic_guards, configured_guards
from llama4sdk.guards.guarded import Guarded
from llama4sdk.guards.guarding import Guarding
from llama4sdk.registry import open_backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from llama4sdk.backend import Answers
    from llama4sdk.guards.policy import GuardPolicy
    from llama4sdk.guards.protocol import Guard
    from llama4sdk.production import Production
    from llama4sdk.telemetry.hook import Telemetry


class Lifetime:
    """Holds a backend from its choice to its end; what `Llama4` is built on.

    Args:
        backend: A backend, or a string that names one; left out, the one that the environment names, else `local`.
        guards: Guards around every turn; None for none. An empty list leaves the checks that cost nothing. Left out,
            those that the environment names, if any; `auto`: those, else nano-guard, with the warning `GuardsMissing`.
        guard_policy: How the guards are applied.
        telemetry: Observes requests, tools and maps; None for none.
        options: Handed to the backend that a string names; they go before those of the environment.

    Raises:
        BackendMissing: When no such backend is installed.
        InvalidRequest: When options are given beside a ready backend, or for guards that are none.
    """

    def __init__(
        self,
        backend: str | Backend | None = None,
        /,
        *,
        guards: Sequence[Guard] | Literal["auto", "configured"] | None = "configured",
        guard_policy: GuardPolicy | None = None,
        telemetry: Telemetry | None = None,
        **options: object,
    ) -> None:
        self._started = False
        self._closed = False
        self._streams: set[Production[Any]] = set()
        self._entered = False
        self._telemetry = _observing(telemetry)
        self._backend = _chosen_backend(backend, options)
        self._guarding = _guarding(guards, guard_policy)

    @property
    def backend(self) -> Backend:
        """The backend, which runs the model."""
        return self._backend

    @property
    def telemetry(self) -> Telemetry | None:
        """The hook that observes its work, if any."""
        return self._telemetry

    @property
    def guard_counts(self) -> Mapping[tuple[str, str, str], int]:
        """How often each guard came to each result: (guard, stage, action), with `error` for checks that failed."""
        return {} if self._guarding is None else dict(self._guarding.counts)

    @property
    def answers(self) -> Answers:
        """The backend as requests reach it: under the client's guards, where it has any."""
        return self._backend if self._guarding is None else Guarded(self._backend, self._guarding)

    @property
    def capabilities(self) -> Capabilities:
        """The backend's capabilities."""
        return self._backend.capabilities

    @property
    def started(self) -> bool:
        """Whether it was started."""
        return self._started

    async def start(self) -> None:
        """Start the backend, as entering the block does, for notebooks and other places without a block.

        Check what can be checked at once, and begin to load; then `aclose()` must be called at the end. A client
        that was started already stays as it is.

        Raises:
            InvalidRequest: The client is closed.
            LlamaError: When the backend can never serve.
        """
        if self._closed:
            raise InvalidRequest("This client is closed; make another Llama4(…).")
        if self._started:
            return
        self._started = True
        try:
            await self._backend.start()
        except BaseException:
            await self.aclose()
            raise

    async def ready(self) -> None:
        """Wait until the model is loaded, so that a request is answered at once; started first where it was not.

        Returns at once for backends that do not load, such as a server's.

        Raises:
            LlamaError: When it cannot be loaded.
        """
        await self.start()
        if isinstance(self._backend, BecomesReady):
            await self._backend.ready()

    async def __aenter__(self) -> Self:
        if self._closed or self._entered:
            raise InvalidRequest("A client is entered once; make another Llama4(…).")
        self._entered = True
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what still runs and free everything; may be called twice."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._backend.aclose()
            for stream in tuple(self._streams):
                await stream.stop()
            if self._guarding is not None:
                await self._guarding.aclose()

    def __del__(self, warn: Any = warnings.warn) -> None:
        if getattr(self, "_started", False) and not self._closed:
            warn(
                f"{self!r} was dropped without closing; use 'async with'.",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        capabilities = self._backend.capabilities
        return f"{type(self).__name__}(backend={capabilities.name!r}, model={capabilities.model!r})"

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequest("This client is closed; make another Llama4(…).")
        if not self._started:
            raise InvalidRequest("Enter the client first: async with Llama4() as llama.")


def _guarding(
    guards: Sequence[Guard] | Literal["auto", "configured"] | None, policy: GuardPolicy | None
) -> Guarding | None:
    """Return the guards of a client, applied under a policy; None for none."""
    if guards == "auto":
        guards = automatic_guards(stacklevel=3)
    elif guards == "configured":
        guards = configured_guards() or None
    if guards is None and policy is not None:
        raise InvalidRequest("A guard_policy needs guards=[…]; an empty list leaves the checks that cost nothing.")
    return None if guards is None else Guarding(guards, policy)


def _observing(telemetry: Telemetry | None) -> Telemetry | None:
    if telemetry is None or (callable(getattr(telemetry, "request", None)) and not isinstance(telemetry, type)):
        return telemetry
    raise InvalidRequest(f"telemetry is an object such as llama4sdk.telemetry.OpenTelemetry(); got {shown(telemetry)}.")


def _chosen_backend(backend: str | Backend | None, options: dict[str, object]) -> Backend:
    """Return the backend that is given, named, or named by the environment."""
    if backend is None:
        backend, named = backend_named()
        options = named | options
    if isinstance(backend, str):
        return open_backend(backend, **options)
    if options:
        raise InvalidRequest(f"Options ({', '.join(options)}) go to the backend itself when you make it yourself.")
    if not isinstance(cast("object", backend), Backend):
        raise InvalidRequest("A backend is a name or an object that keeps the Backend protocol.")
    return backend
