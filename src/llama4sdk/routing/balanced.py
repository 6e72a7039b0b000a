"""`Balanced`: equal backends share the work, by load and by what each has computed already."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from llama4sdk.checks import check_number
from llama4sdk.routing.prompt_digests import head, prompt_digests
from llama4sdk.routing.router import Rules
from llama4sdk.routing.routing_wrapper import RoutingWrapper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.backend import Backend
    from llama4sdk.request import Request
    from llama4sdk.routing.breaker import Breaker
    from llama4sdk.routing.members import Member
    from llama4sdk.routing.policy import Policy

_REMEMBERED = 20_000  # digests of prompts for each backend


class Balanced(RoutingWrapper):
    """Spreads requests over equal backends, and moves those of a failed one to others as `Fallback` does.

    A prompt goes where the longest of its beginnings was answered before, so that prefix caches are of use and a
    conversation stays where it began; a new one goes to the less busy of the two backends that its beginning hashes to.
    A backend with more than `spread` times the mean load gets neither.

    Args:
        backends: The backends, or strings that name them.
        spread: Most requests of one backend, as a multiple of the mean, at least 1.
        resume: Whether an answer that broke off goes on elsewhere.
        policy: As for `Fallback`.
        breaker: When a backend rests.
        switches: Most times that one request moves on.

    Raises:
        BackendMissing: For a name that stands for no backend.
        InvalidRequest: Without a backend, or for options out of range.
    """

    def __init__(
        self,
        *backends: Backend | str,
        spread: float = 1.25,
        resume: bool = True,
        policy: Policy | None = None,
        breaker: Breaker | None = None,
        switches: int = 16,
    ) -> None:
        check_number("spread", spread, 1, 1000)
        self._spread = spread
        super().__init__(backends, "balanced", Rules(policy or {}, resume, switches), breaker)

    def asked(self) -> Sequence[Member]:
        """Return the backends for a call that is no request, the least busy one first."""
        return sorted(self._members.usable, key=_load)

    async def drain(self, backend: Backend) -> None:
        """Send no more requests to a backend, and wait until those that it runs have ended.

        Raises:
            InvalidRequest: It is none of the backends.
        """
        member = self._members.of(backend)
        member.draining = True
        await member.idle()

    def undrain(self, backend: Backend) -> None:
        """Send requests to a drained backend again.

        Raises:
            InvalidRequest: It is none of the backends.
        """
        self._members.of(backend).draining = False

    def order(self, request: Request, candidates: Sequence[Member]) -> Sequence[Member]:
        """Return the candidate for the next try first."""
        if len(candidates) < 2:
            return candidates
        digests = prompt_digests(request)
        most = math.ceil(self._spread * (sum(member.running for member in candidates) + 1) / len(candidates))
        free = [member for member in candidates if member.running < most] or list(candidates)
        for digest in reversed(digests):
            if holders := [member for member in free if digest in member.prompts]:
                return [min(holders, key=_load)]
        key = head(request, digests)
        hashed = sorted(free, key=lambda member: hashlib.blake2b(key, key=member.tag, digest_size=8).digest())
        return [min(hashed[:2], key=_load)]

    def answered(self, request: Request, member: Member) -> None:
        """Remember that a member has the prompt computed."""
        for digest in prompt_digests(request):
            member.prompts[digest] = None
            member.prompts.move_to_end(digest)
        while len(member.prompts) > _REMEMBERED:
            member.prompts.popitem(last=False)


def _load(member: Member) -> int:
    return member.running
