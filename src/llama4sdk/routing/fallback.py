"""`Fallback`: the next backend where one fails, also in the middle of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.routing.router import Rules
from llama4sdk.routing.routing_wrapper import RoutingWrapper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.backend import Backend
    from llama4sdk.request import Request
    from llama4sdk.routing.breaker import Breaker
    from llama4sdk.routing.members import Member
    from llama4sdk.routing.policy import Policy


class Fallback(RoutingWrapper):
    """Asks the first backend, and where it fails the next one, also in the middle of an answer.

        async with Llama4(Fallback(HttpBackend("http://10.0.0.5:8000/v1"), "local:/models/scout")) as llama: …

    An answer that breaks off goes on elsewhere: the next backend gets the text so far as the answer's beginning, the
    reader gets `Switched`, and then the rest. Where no backend is left that goes on with a beginning, an answer with
    calls or a typed one begins anew, which `Switched.withdrawn` shows; for free text the error stands. The deadline
    `total` is one over all tries; the usage is that of all tries together.

    A backend that fails `breaker.failures` times in a row rests, and is then tried by one request.

    Args:
        backends: Backends in the order in which they are asked, or strings that name them.
        resume: Whether an answer that broke off goes on elsewhere; else another backend is asked only before any text.
        policy: For classes of errors, whether the `next` backend is asked or the error is raised (`raise`). Left out:
            the next one for `Unreachable`, `DeadlineExceeded` but `total`, `Overloaded`, `ServerFault`,
            `ProtocolError`, `StreamInterrupted` and any other error that is retryable.
        breaker: When a backend rests.
        switches: Most times that one request moves on: backends that all fail take turns only while the answer grows.

    Raises:
        BackendMissing: For a name that stands for no backend.
        InvalidRequest: Without a backend, or for a policy that cannot be read.
    """

    def __init__(
        self,
        *backends: Backend | str,
        resume: bool = True,
        policy: Policy | None = None,
        breaker: Breaker | None = None,
        switches: int = 16,
    ) -> None:
        super().__init__(backends, "fallback", Rules(policy or {}, resume, switches), breaker)

    def order(self, request: Request, candidates: Sequence[Member]) -> Sequence[Member]:
        """Return the candidates as they were given."""
        del request
        return candidates

    def answered(self, request: Request, member: Member) -> None:
        """Do nothing: the order never changes."""
        del request, member
