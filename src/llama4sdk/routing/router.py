"""The choice of a backend, one try after the other: what `Fallback` and `Balanced` differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llama4sdk.checks import check_whole
from llama4sdk.routing.policy import checked_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llama4sdk.request import Request
    from llama4sdk.routing.members import Member, Members
    from llama4sdk.routing.policy import Policy


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a routed request after a failure.

    Args:
        policy: Which errors another backend may mend.
        resume: Whether an answer that broke off in its middle goes on elsewhere.
        switches: Most times that one request moves on.

    Raises:
        InvalidRequest: For a policy that cannot be read, or a number out of range.
    """

    policy: Policy
    resume: bool = True
    switches: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", checked_policy(self.policy))
        check_whole("switches", self.switches, 0, optional=False)


class Router(Protocol):
    """Chooses among its members."""

    @property
    def members(self) -> Members:
        """All of them."""
        ...

    @property
    def rules(self) -> Rules:
        """The rules of its requests after a failure."""
        ...

    def order(self, request: Request, candidates: Sequence[Member]) -> Sequence[Member]:
        """Return candidates in the order in which they are to be tried; those left out are not."""
        ...

    def answered(self, request: Request, member: Member) -> None:
        """Take note that a member has begun to answer a request."""
        ...


def pick(router: Router, request: Request, now: float, untried: Callable[[Member], bool]) -> Member | None:
    """Return the member for the next try: one that takes such requests and does not rest; None without any.

    Args:
        router: Chooses.
        request: The request as it will be sent.
        now: The event loop's time.
        untried: Whether a member may be tried.
    """
    untried_ones = [member for member in router.members.usable if untried(member)]
    members = [member for member in untried_ones if member.breaker.admits(now)]
    candidates = [member for member in members if member.serves(request)]
    if not candidates and request.answer_so_far:
        # An answer in its middle has a reader: for it even a backend that rests is tried.
        candidates = [member for member in untried_ones if member.serves(request)]
    elif not candidates:
        candidates = members  # none takes it: the first one's error tells why
    order = router.order(request, candidates)
    return order[0] if order else None
