"""The hook: what a client calls while it works, for traces and metrics of any kind.

Each method returns a block, which is entered when the work begins and left when it ends, in the task that does it; an
error passes through it, a cancellation too. Without a hook nothing of this is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from llama4sdk.backend import Capabilities
    from llama4sdk.events import Event, Usage
    from llama4sdk.request import Request, ToolSpec
    from llama4sdk.tool_call import ToolCall


class Observed(Protocol):
    """A piece of work under way, as a block around it."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: `error` is a `LlamaError` where it failed, a cancellation where it was stopped."""
        ...


class ObservedRequest(Observed, Protocol):
    """A request to a backend, its retries included."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers by which a server's own trace goes on from here, such as `traceparent`; read inside the block."""
        ...

    def saw(self, event: Event) -> None:
        """Take note of an event of the answer, as its reader gets it."""
        ...

    def cost(self, usage: Usage) -> None:
        """Take note of the tokens of an answer that did not come to its end."""
        ...


class ObservedTool(Observed, Protocol):
    """A tool that runs."""

    def returned(self, content: str, problem: str | None) -> None:
        """Take note of the end.

        Args:
            content: What the model is told.
            problem: Why the call failed, in words; None where it did not.
        """
        ...


class ObservedRun(Observed, Protocol):
    """A run: requests and tools, until the model answers."""

    def stopped(self, reason: str, usage: Usage) -> None:
        """Take note of the end: why, and the tokens of all its requests."""
        ...


class Telemetry(Protocol):
    """A hook, given to a client as `Llama4(…, telemetry=…)`; called on the event loop, so it must not wait."""

    def request(self, request: Request, capabilities: Capabilities, session: str = "") -> ObservedRequest:
        """Return the block around a request.

        Args:
            request: The request.
            capabilities: Those of the backend that gets it.
            session: Id of the session that it is a turn of.
        """
        ...

    def run(self, request: Request, capabilities: Capabilities) -> ObservedRun:
        """Return the block around a run that begins with a request."""
        ...

    def tool(self, call: ToolCall, spec: ToolSpec) -> ObservedTool:
        """Return the block around one call of a tool."""
        ...

    def entry(self, index: int) -> Observed:
        """Return the block around one prompt of a map, all its tries included."""
        ...
