"""Runs an application under uvicorn: in a block, or until a signal."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

import anyio
import uvicorn

from llama4sdk.checks import check_number, check_whole
from llama4sdk.client import Llama4
from llama4sdk.errors import InvalidRequest
from llama4sdk.owned_task import start_owned
from llama4sdk.server.app import create_app

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from starlette.applications import Starlette

    from llama4sdk.backend import Backend
    from llama4sdk.guards import Guard, GuardPolicy
    from llama4sdk.server.options import ServerKeywords
    from llama4sdk.server.serving import Serving

log = logging.getLogger("llama4sdk.server")

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_LAST_WORDS = 5.0  # seconds in which requests that were cut off may say so


def serve(
    backend: str | Backend | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    shutdown_seconds: float = 30.0,
    backend_options: Mapping[str, Any] | None = None,
    guards: Sequence[Guard] | Literal["auto", "configured"] | None = "configured",
    guard_policy: GuardPolicy | None = None,
    announce: Callable[[str], None] | None = None,
    **options: Unpack[ServerKeywords],
) -> None:
    """Serve a backend until SIGINT or SIGTERM; running requests are then finished, or cut off after some seconds.

    Args:
        backend: As `Llama4` takes it.
        host: The address to listen on. Beyond loopback, think of `api_keys`.
        port: The port; 0 for a free one.
        shutdown_seconds: How long running requests may take to finish at the end.
        backend_options: Options of the backend that a string names.
        guards: As `Llama4` takes them.
        guard_policy: How they are applied; see `GuardPolicy`.
        announce: Called with the server's address once it listens.
        options: See `ServerOptions`.

    Raises:
        InvalidRequest: For options out of range, or an address that cannot be used.
        LlamaError: When the backend can never serve.
    """

    async def run() -> None:
        async with Llama4(backend, guards=guards, guard_policy=guard_policy, **(backend_options or {})) as llama:
            app = create_app(llama, **_for_host(host, options))
            async with running(app, host=host, port=port, shutdown_seconds=shutdown_seconds, signals=True) as server:
                if announce is not None:
                    announce(server.url)
                await server.ended.wait()

    anyio.run(run)


class RunningServer:
    """A server that runs.

    Args:
        url: Its address, without a path.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.ended = anyio.Event()
        """Set when it was asked to end."""


@asynccontextmanager
async def running(
    app: Starlette, *, host: str = "127.0.0.1", port: int = 0, shutdown_seconds: float = 30.0, signals: bool = False
) -> AsyncGenerator[RunningServer]:
    """Serve an application within a block, on asyncio.

        async with running(create_app(llama)) as server:
            print(server.url)

    Args:
        app: What `create_app` returns, or an application with it mounted.
        host: The address to listen on.
        port: The port; 0 for a free one.
        shutdown_seconds: How long running requests may take to finish at the end.
        signals: Whether SIGINT and SIGTERM set `ended`.

    Raises:
        InvalidRequest: For an address that cannot be used.
    """
    check_whole("port", port, 0, 65535, optional=False)
    check_number("shutdown_seconds", shutdown_seconds, 0, 86400)
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    server = RunningServer(f"http://{shown}:{listener.getsockname()[1]}")
    inner = _Uvicorn(app, server, shutdown_seconds, signals=signals)
    task = start_owned(partial(inner.run_on, listener))
    try:
        await inner.listening.wait()
        if inner.failed:
            raise InvalidRequest("The server could not start; its log has the reason.")
        yield server
    finally:
        inner.should_exit = True
        with anyio.CancelScope(shield=True):
            await inner.finished.wait()
        del task


class _Uvicorn(uvicorn.Server):
    """uvicorn, which tells the application of the end before it waits for running requests."""

    def __init__(self, app: Starlette, server: RunningServer, seconds: float, *, signals: bool) -> None:
        super().__init__(
            uvicorn.Config(
                cast("Any", app),
                log_config=None,
                access_log=False,
                server_header=False,
                headers=[("server", "llama4sdk.server")],
                timeout_graceful_shutdown=int(seconds + _LAST_WORDS) + 1,
                lifespan="on",
            )
        )
        self._serving: Serving | None = getattr(app.state, "serving", None)
        self._server = server
        self._seconds = seconds
        self._signals = signals
        self.listening = anyio.Event()
        self.finished = anyio.Event()
        self.failed = False

    async def run_on(self, listener: socket.socket) -> None:
        """Serve a listening socket until `should_exit`."""
        try:
            await self.serve(sockets=[listener])
        except SystemExit:  # the application could not start
            self.failed = True
        except Exception:
            log.exception("The server ended with an error.")
        finally:
            listener.close()
            self._server.ended.set()
            self.failed = self.failed or not self.started
            self.listening.set()
            self.finished.set()

    def capture_signals(self) -> Any:
        """Leave signals alone, unless they were asked for."""
        inner: AbstractContextManager[None] = super().capture_signals() if self._signals else nullcontext()
        return inner

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Take a signal; it is not raised again at the end."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let no further request in, and cut off what has not ended in time."""
        self._server.ended.set()
        async with anyio.create_task_group() as tasks:
            if self._serving is not None:
                tasks.start_soon(self._serving.admission.drain, self._seconds)
            await super().shutdown(sockets)
            tasks.cancel_scope.cancel()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InvalidRequest(f"The host {host[:80]!r} cannot be looked up: {error}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        hint = "another program uses it; give another port" if error.errno == errno.EADDRINUSE else str(error.strerror)
        raise InvalidRequest(f"Cannot listen on {host[:80]} port {port}: {hint}.") from None
    return listener


def _for_host(host: str, options: ServerKeywords) -> ServerKeywords:
    """Return the options for an address: on loopback, pages of other hosts cannot lead a browser here."""
    if _is_loopback(host):
        return {"allowed_hosts": _LOOPBACK_NAMES, **options}
    if not options.get("api_keys"):
        log.warning("The server listens on %s without a key: any client may use it; see api_keys.", host)
    return options


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
