"""The calls to Ray; all of them block, and run in threads."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama4_ray import placement
from llama4_ray.head import FAILED
from llama4sdk.errors import (
    BackendMissing,
    DeadlineExceeded,
    InvalidRequest,
    LlamaError,
    ServerFault,
    Unreachable,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Mapping, Sequence

    from llama4_ray.settings import Settings

_LOG = logging.getLogger("llama4_ray")
_STOP = 10.0  # seconds for a replica to end by itself
_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_LOOK = 0.5  # seconds from one look at a replica that starts to the next


@dataclass(frozen=True, eq=False)
class Placed:
    """A replica that runs.

    Args:
        actor: Ray's handle.
        ended: The result that comes with its end.
        url: Its address.
        key: The key that its requests carry.
        group: Its placement group; None for a replica of one process.
    """

    actor: Any
    ended: Any
    url: str
    key: str = field(repr=False)
    group: Any = None


class Connection:
    """A connection to a cluster, and the cluster itself where it was started for this connection.

    Args:
        head: The process that holds the cluster; None for one that was there before.
        attached: Whether this connection is to be ended.
    """

    def __init__(self, head: subprocess.Popen[str] | None, *, attached: bool) -> None:
        self._head = head
        self._attached = attached

    @property
    def ended(self) -> bool:
        """Whether the cluster that was started for it has ended."""
        return self._head is not None and self._head.poll() is not None

    def capacity(self, settings: Settings) -> int | None:
        """Return how many replicas there can be; None where the cluster may grow.

        Raises:
            InvalidRequest: There can be none.
        """
        ray = _ray()
        nodes = ray.nodes()
        most = placement.capacity(settings.share, nodes)
        if most == 0 and self._head is not None:
            raise InvalidRequest(
                f"A replica takes {settings}, and this machine has {placement.largest(nodes)}; give other cpus= or "
                "gpus=, or the address= of a cluster.",
                backend="ray",
            )
        if most == 0:
            _LOG.warning("a replica takes %s; the largest has %s: waiting", settings, placement.largest(nodes))
        return None if self._head is None else most

    def close(self) -> None:
        """End the connection, and the cluster that was started for it."""
        if self._attached:
            _ray().shutdown()
        if self._head is not None:
            _end(self._head)


def connect(address: str | None) -> Connection:
    """Attach to a cluster, or start one on this machine.

    Raises:
        BackendMissing: Ray is not installed.
        Unreachable: No cluster is there.
        ServerFault: None can be started.
    """
    ray = _ray()
    if ray.is_initialized():
        return Connection(None, attached=False)
    starts = address is None and "RAY_ADDRESS" not in os.environ
    head: subprocess.Popen[str] | None = None
    if starts:
        # Ray needs a main thread to start a cluster, and the main thread here is that of the event loop.
        _use_token(ray)
        head = subprocess.Popen(
            [sys.executable, "-m", "llama4_ray.head"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        address = head.stdout.readline().strip() if head.stdout is not None else ""
        if not address or address.startswith(FAILED):
            _end(head)
            reason = f": {address.removeprefix(FAILED)}" if address else ""
            raise ServerFault(
                f"Ray could not start a cluster on this machine{reason}; try 'ray start --head'.", backend="ray"
            )
    try:
        with _outliving(ray):
            ray.init(address=address or "auto", log_to_driver=False, configure_logging=False)
    except (RuntimeError, ValueError, OSError) as error:
        if head is not None:
            _end(head)
        raise Unreachable(f"No Ray cluster answers at {address or 'RAY_ADDRESS'}; is it running?") from error
    return Connection(head, attached=True)


def _use_token(ray: Any) -> None:
    """Let this process use the token of clusters started on this machine, as `ray.init` does for its own."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        _read_environment(ray)


@contextmanager
def _outliving(ray: Any) -> Generator[None]:
    """Let a connection that is made within the block wait for a cluster that is gone: Ray would end this process."""
    if _PATIENCE in os.environ:
        yield
        return
    os.environ[_PATIENCE] = "1000000000"
    try:
        _read_environment(ray)
        yield
    finally:
        del os.environ[_PATIENCE]  # processes that are started later end with their cluster


def _read_environment(ray: Any) -> None:
    """Let Ray read its settings, which it did when it was imported, again."""
    config = getattr(getattr(ray, "_raylet", None), "Config", None)
    if config is not None:
        config.initialize("")


def _end(head: subprocess.Popen[str]) -> None:
    for pipe in (head.stdin, head.stdout):
        if pipe is not None:
            pipe.close()
    try:
        head.wait(_STOP)
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait()


def place(settings: Settings, abandoned: threading.Event) -> Placed:
    """Start a replica, with a key of its own, and wait until its backend serves.

    Args:
        settings: What runs in it, and its share of the cluster.
        abandoned: Set when it is not wanted any more; it is then ended.

    Raises:
        DeadlineExceeded: It was not placed or did not start in time: the cluster has too few resources for it.
        LlamaError: Its backend can never serve.
    """
    ray = _ray()
    from llama4_ray.replica import Replica

    until = time.monotonic() + settings.start_seconds
    key = secrets.token_urlsafe(32)
    group, actor = placement.reserve(settings), None
    try:
        if group is not None:  # `PlacementGroup.wait` takes whole seconds alone: less than one it does not wait at all
            reserved = group.ready()
            _wait(lambda seconds: bool(ray.wait([reserved], timeout=seconds)[0]), until, abandoned)
        options: dict[str, Any] = {
            "num_cpus": settings.share["CPU"],
            "num_gpus": settings.share["GPU"],
            "max_concurrency": 16,
            "max_restarts": 0,  # a replica that died is replaced by another one, at another address
            **placement.inside(group),
        }
        actor = ray.remote(Replica).options(**options).remote(settings.spec, settings.options, key, settings.host)
        url = actor.start.remote()
        _wait(lambda seconds: bool(ray.wait([url], timeout=seconds)[0]), until, abandoned)
        return Placed(actor, actor.ended.remote(), ray.get(url), key, group)
    except BaseException as error:
        if actor is not None:
            ray.kill(actor)
        placement.release(group)
        if isinstance(error, TimeoutError):
            raise _too_late(ray, settings) from error
        if isinstance(error, ray.exceptions.RayError):
            raise _own(error) from error
        raise


def _wait(ready: Callable[[float], bool], until: float, abandoned: threading.Event) -> None:
    while not ready(_LOOK):
        if abandoned.is_set():
            raise ServerFault("The start of this replica was given up.", backend="ray")
        if time.monotonic() >= until:
            raise TimeoutError


def _too_late(ray: Any, settings: Settings) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"A replica did not start within {settings.start_seconds:g} s; are {settings} free? "
        f"The largest has {placement.largest(ray.nodes())}.",
        phase="connect",
        backend="ray",
    )


def dead(replicas: Sequence[Placed]) -> list[Placed]:
    """Return those that have ended."""
    if not replicas:
        return []
    ray = _ray()
    refs: Mapping[Any, Placed] = {replica.ended: replica for replica in replicas}
    gone, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
    return [refs[ref] for ref in gone]


def ask(replica: Placed) -> Any:
    """Ask a replica whether its event loop runs; return the answer to come."""
    return replica.actor.answers.remote()


def has_come(answer: Any) -> bool:
    """Return whether an answer, or the end of the replica that was asked, is here."""
    return bool(_ray().wait([answer], timeout=0)[0])


def stop(replica: Placed) -> None:
    """End a replica, by force where it does not end by itself, and give its room back."""
    ray = _ray()
    try:
        ray.get(replica.actor.stop.remote(), timeout=_STOP)
    except ray.exceptions.RayError as error:
        _LOG.debug("a replica did not end by itself: %s", type(error).__name__)
    ray.kill(replica.actor)
    placement.release(replica.group)


def bury(replica: Placed) -> None:
    """End what is left of a replica that has ended, and give its room back."""
    _ray().kill(replica.actor)
    placement.release(replica.group)


def _own(error: BaseException) -> LlamaError:
    """Return the replica's own error, which came through Ray, or a fault that stands for another."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, LlamaError):
        return cause
    return ServerFault(f"A replica failed at its start with {type(cause or error).__name__}; see __cause__.")


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise BackendMissing("Replicas need Ray. Install it with: pip install 'llama4sdk[ray]'") from error
    return ray
