"""Every failure of the SDK is one of these.

    LlamaError
    ├── InvalidRequest          the request cannot be served as it stands; change it
    │   ├── ContextOverflow     the prompt is longer than the model's context
    │   ├── TooManyImages       more images than the model or the server takes
    │   ├── ImageError          an image that cannot be read, or may not be
    │   └── UrlBlocked          a remote image that the caller did not allow, or a private address
    ├── Unreachable             no connection, no name, no valid certificate
    ├── DeadlineExceeded        a phase took longer than its deadline (`.phase`)
    ├── Rejected                the server understood and refused
    │   ├── BadKey              the key is missing, wrong or not entitled
    │   └── ModelRetired        the model is gone from that server
    ├── Overloaded              too busy now (`.retry_after` in seconds, when known)
    ├── ServerFault             the server, or the engine, failed
    ├── ProtocolError           the server's answer breaks the protocol
    ├── StreamInterrupted       the answer broke off (`.partial` holds what came)
    ├── OutputInvalid           the answer does not fit the asked-for type (`.raw` holds it)
    ├── ToolFailed              a tool could not be run to an end
    ├── GuardBlocked            a guard blocked the turn (`.stage`, `.guard`, `.categories`)
    ├── GuardUnavailable        a guard gave no verdict, and the policy lets nothing pass without one
    ├── CheckpointError         a checkpoint that cannot be served; lists every problem
    └── BackendMissing          no such backend, or one that cannot be imported

Each carries `.backend` (its name), `.request_id` and `.retryable` (would the same call have a chance
later?). Cancellation is never wrapped in any of them. No message carries a key, a prompt or an image.
Beside the tree stands one warning, `GuardsMissing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

Phase = Literal["connect", "first_token", "idle", "total"]


class PartialReply(Protocol):
    """The reply so far, on an error that ends it midway; a `Reply`, which is built above this module."""

    @property
    def text(self) -> str:
        """The text so far."""
        ...

    @property
    def tool_calls(self) -> tuple[Any, ...]:
        """The `ToolCall`s so far."""
        ...

    @property
    def output(self) -> Any:
        """The typed answer so far."""
        ...

    @property
    def usage(self) -> Any:
        """The `Usage` so far."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """The finish reason; None on a reply that was cut."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the model reached its own end."""
        ...

    @property
    def message(self) -> Any:
        """The reply so far as an `AssistantMessage`."""
        ...


class LlamaError(Exception):
    """Base of every error that the SDK raises on purpose.

    Args:
        message: What happened and what to do about it.
        backend: Name of the backend concerned, when one was.
        request_id: Id of the request concerned, when one was.
        retryable: Whether the same call may succeed later; the class decides when left out.
    """

    retryable: bool = False
    partial: PartialReply | None = None
    """The reply so far, on errors that end an answer midway; never a complete answer."""
    server_message: str | None = None
    """The server's own words, where a server refused. They may repeat the prompt, so `str()`, `repr()` and log
    records never contain them."""

    def __init__(
        self,
        message: str,
        *,
        backend: str | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.request_id = request_id
        if retryable is not None:
            self.retryable = retryable

    def __reduce__(
        self,
    ) -> tuple[Callable[..., LlamaError], tuple[type[LlamaError], tuple[object, ...]], dict[str, object]]:
        # Keyword-only arguments would not survive the default way of copying and pickling.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[LlamaError], args: tuple[object, ...]) -> LlamaError:
    error = kind.__new__(kind)
    error.args = args
    return error


class InvalidRequest(LlamaError):
    """The request cannot be served as it stands."""


class ContextOverflow(InvalidRequest):
    """The prompt, with room for the answer, is longer than the model's context.

    Args:
        message: What happened.
        prompt_tokens: Tokens in the prompt, when known.
        limit: Tokens that the context holds, when known.
    """

    def __init__(
        self,
        message: str,
        *,
        prompt_tokens: int | None = None,
        limit: int | None = None,
        backend: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, backend=backend, request_id=request_id)
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class TooManyImages(InvalidRequest):
    """More images than the model or the server takes."""


class ImageError(InvalidRequest):
    """An image that cannot be read, or whose size or format is not allowed."""


class UrlBlocked(InvalidRequest):
    """A remote image without `fetch=True`, or a private address."""


class Unreachable(LlamaError):
    """No connection to the server: refused, no such name, or no valid certificate."""

    retryable = True


class DeadlineExceeded(LlamaError):
    """A phase took longer than its deadline allows.

    Args:
        message: What happened.
        phase: `connect`, `first_token`, `idle` or `total`.
        partial: What had been answered by then, when anything had.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        phase: Phase,
        partial: PartialReply | None = None,
        backend: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, backend=backend, request_id=request_id)
        self.phase: Phase = phase
        self.partial = partial


class Rejected(LlamaError):
    """The server understood the request and refused it."""


class BadKey(Rejected):
    """The key is missing, wrong, or not entitled to this model."""


class ModelRetired(Rejected):
    """The model is no longer served there."""


class Overloaded(LlamaError):
    """Too busy to take the request now.

    Args:
        message: What happened.
        retry_after: Seconds to wait before trying again, when known.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        backend: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, backend=backend, request_id=request_id)
        self.retry_after = retry_after


class ServerFault(LlamaError):
    """The server, or the engine in this process, failed while working on the request."""

    retryable = True


class ProtocolError(LlamaError):
    """The answer breaks the protocol: not what the server promised to send."""


class StreamInterrupted(LlamaError):
    """The answer broke off before its end.

    Args:
        message: What happened.
        partial: What came before the break; never a complete answer.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        partial: PartialReply | None = None,
        backend: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, backend=backend, request_id=request_id)
        self.partial = partial


class OutputInvalid(LlamaError):
    """The answer does not fit the type that was asked for.

    Args:
        message: Where it does not fit.
        raw: The answer as the model wrote it.
    """

    def __init__(self, message: str, *, raw: str, backend: str | None = None, request_id: str | None = None) -> None:
        super().__init__(message, backend=backend, request_id=request_id)
        self.raw = raw


class ToolFailed(LlamaError):
    """A tool could not be run to an end, and the loop was told not to go on."""


class GuardBlocked(LlamaError):
    """A guard blocked the turn; its generation was stopped, and it is in no history.

    Args:
        message: What happened.
        stage: `input`, `tool_call`, `tool_result` or `output`.
        guard: The guard's name.
        categories: Short names of the harms.
        released_characters: Characters of the answer that the reader had by then.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: str,
        guard: str,
        categories: tuple[str, ...] = (),
        released_characters: int = 0,
        backend: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, backend=backend, request_id=request_id)
        self.stage = stage
        self.guard = guard
        self.categories = categories
        self.released_characters = released_characters


class GuardUnavailable(LlamaError):
    """A guard gave no verdict that counts: it failed, was late, inspected too little, or its self-test failed.

    Args:
        message: What happened.
        guard: The guard's name.
        stage: The stage of the item; None where it was no item's check.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        guard: str,
        stage: str | None = None,
        backend: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, backend=backend, request_id=request_id)
        self.guard = guard
        self.stage = stage


class GuardsMissing(UserWarning):
    """Guards are asked for with `guards="auto"` and none are configured: a demonstration checks the turns."""


class CheckpointError(LlamaError):
    """A checkpoint that cannot be served.

    Args:
        path: The folder or file, as the caller named it.
        problems: Everything that is wrong with it, one line each.
    """

    def __init__(self, path: object, problems: list[str] | tuple[str, ...], *, backend: str | None = None) -> None:
        self.path = str(path)
        self.problems = tuple(problems)
        shown = "".join(f"\n  - {problem}" for problem in self.problems[:40])
        more = len(self.problems) - 40
        if more > 0:
            shown += f"\n  … and {more} more (all in .problems)"
        super().__init__(f"Cannot serve the checkpoint {self.path}:{shown}", backend=backend)


class BackendMissing(LlamaError):
    """No backend of that name, or one whose package cannot be imported."""
