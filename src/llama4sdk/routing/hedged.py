"""`Hedged`: a second request where the first one is slow to begin, and the first answer wins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.routing.hedging import Budget, FirstTokenLatency
from llama4sdk.routing.race import Race
from llama4sdk.routing.wrapper import Wrapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from llama4sdk.backend import Backend
    from llama4sdk.events import Event
    from llama4sdk.request import Request


class Hedged(Wrapper):
    """Asks the first backend, and the next one too where no token comes within a time; the first token wins.

        Hedged(HttpBackend("http://10.0.0.5:8000/v1"), HttpBackend("http://10.0.0.6:8000/v1"), after="p95")

    The slower request is cancelled at once. With one backend alone, the second request goes to the same. Failures stay
    errors, unless the other request answers; around it, `Fallback` mends them.

    Args:
        backends: The first one, and those that are asked in turn when it is slow; or strings that name them.
        after: Seconds without a token, or a percentile of the waits of the last 200 requests, such as `p95`, from the
            twentieth request on.
        budget: Most second requests, as a share of all; ten more may go out at the beginning.

    Raises:
        BackendMissing: For a name that stands for no backend.
        InvalidRequest: Without a backend, or for options out of range.
    """

    def __init__(self, *backends: Backend | str, after: float | str = "p95", budget: float = 0.1) -> None:
        self._latency = FirstTokenLatency(after)
        self._budget = Budget(budget)
        self._turn = 0
        super().__init__(backends, "hedged")

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run one request; see `Backend.open`."""
        first, *others = self._members.usable or self._members.all
        able = [member for member in others if member.serves(request)] or [first]
        second = able[self._turn % len(able)]
        self._turn += 1
        return Race(self._members, request, (first, second), self._latency, self._budget)
