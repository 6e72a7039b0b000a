"""The base of wrappers that move a request on to another backend where one fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from llama4sdk.routing.policy import action_for
from llama4sdk.routing.routed import Routed
from llama4sdk.routing.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from llama4sdk.backend import Backend
    from llama4sdk.errors import LlamaError
    from llama4sdk.events import Event
    from llama4sdk.request import Request
    from llama4sdk.routing.breaker import Breaker
    from llama4sdk.routing.members import Member
    from llama4sdk.routing.router import Rules


class RoutingWrapper(Wrapper, ABC):
    """Backends of which one after the other is tried; subclasses put them in order.

    Args:
        backends: The backends, or strings that name them.
        name: The wrapper's name.
        rules: The rules of its requests after a failure.
        breaker: When a backend rests; None for the default.

    Raises:
        BackendMissing: For a name that stands for no backend.
        InvalidRequest: Without a backend.
    """

    def __init__(
        self, backends: Sequence[Backend | str], name: str, rules: Rules, breaker: Breaker | None = None
    ) -> None:
        self._rules = rules
        super().__init__(backends, name, breaker)

    @property
    def rules(self) -> Rules:
        """The rules of its requests after a failure."""
        return self._rules

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run one request; see `Backend.open`."""
        return Routed(self, request)

    def goes_on(self, error: LlamaError) -> bool:
        """Return whether the next backend is asked after an error of a call that is no request."""
        return action_for(error, self._rules.policy) == "next"

    @abstractmethod
    def order(self, request: Request, candidates: Sequence[Member]) -> Sequence[Member]:
        """Return candidates in the order in which they are to be tried; those left out are not."""

    @abstractmethod
    def answered(self, request: Request, member: Member) -> None:
        """Take note that a member has begun to answer a request."""
