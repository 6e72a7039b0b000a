"""The backends behind a wrapper: started and closed together, each with its health and its load."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

import anyio

from llama4sdk.backend import Backend, Capabilities, Continues, template_of
from llama4sdk.checks import shown
from llama4sdk.errors import InvalidRequest, LlamaError, ServerFault
from llama4sdk.registry import open_backend
from llama4sdk.routing.breaker import Breaker, CircuitBreaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.request import Request

_CONTINUES: tuple[Continues, ...] = ("nothing", "text", "everything")


class Member:
    """One backend behind a wrapper.

    Args:
        backend: The backend.
        breaker: When it rests.
        number: Its number among the members that there ever were.
    """

    def __init__(self, backend: Backend, breaker: Breaker, number: int) -> None:
        self.backend = backend
        self.breaker = CircuitBreaker(breaker)
        self.running = 0
        """Requests that it runs."""
        self.prompts: OrderedDict[bytes, None] = OrderedDict()
        """Digests of prompts that it answered lately, the last ones at the end."""
        self.tag = number.to_bytes(8, "little")
        """Distinguishes it from others where prompts are hashed to members; the same in every process."""
        self._idle: anyio.Event | None = None
        self.draining = False
        """Whether it gets no further requests."""
        self.removed = False
        """Whether it was taken out, which ends the requests that it runs."""
        self.unusable: LlamaError | None = None
        """The error of its start, where it can never serve."""

    @property
    def name(self) -> str:
        """Its name in events and errors."""
        return self.backend.capabilities.name

    def release(self) -> None:
        """Count a request that has ended."""
        self.running -= 1
        if self._idle is not None and not self.running:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until it runs no request."""
        if self.running:
            if self._idle is None or self._idle.is_set():
                self._idle = anyio.Event()
            await self._idle.wait()

    def serves(self, request: Request) -> bool:
        """Return whether it takes requests of this kind."""
        able = self.backend.capabilities
        if request.raw is not None and not able.raw_prompts:
            return False
        if request.answer_so_far and not able.can_continue(request):
            return False
        return able.vision or not any(message.images for message in request.messages)


class Members:
    """The backends of a wrapper.

    Args:
        backends: Backends, or strings that name them.
        wrapper: The wrapper's name.
        breaker: When each of them rests; None for the default.

    Raises:
        BackendMissing: For a name that stands for none.
        InvalidRequest: Without any, or for anything that is no backend.
    """

    def __init__(self, backends: Sequence[Backend | str], wrapper: str, breaker: Breaker | None = None) -> None:
        if not backends:
            raise InvalidRequest(f"{wrapper.capitalize()} needs at least one backend.")
        self._wrapper = wrapper
        self._starts = 0
        self.closed = False
        self._breaker = breaker or Breaker()
        self._made = len(backends)
        self.all = [Member(opened(backend), self._breaker, number) for number, backend in enumerate(backends)]
        self._last: Capabilities | None = None  # of those that were removed, when none is left

    @property
    def usable(self) -> list[Member]:
        """Those whose start did not fail and that are not being drained."""
        return [member for member in self.all if member.unusable is None and not member.draining]

    @property
    def capabilities(self) -> Capabilities:
        """The features of at least one of them; promises about answers only where all keep them."""
        if not self.all and self._last is not None:
            return self._last
        each = [member.backend.capabilities for member in self.usable or self.all]
        return Capabilities(
            name=self._wrapper,
            model=each[0].model,
            context=_most([able.context for able in each]),
            max_images=_most([able.max_images for able in each]),
            vision=any(able.vision for able in each),
            tools=all(able.tools for able in each),
            parses_tool_calls=any(able.parses_tool_calls for able in each),
            structured_output=all(able.structured_output for able in each),
            seed=all(able.seed for able in each) and len({able.model for able in each}) == 1,
            batch_invariant=all(able.batch_invariant for able in each) and len({able.model for able in each}) == 1,
            logprobs=all(able.logprobs for able in each),
            sessions=any(able.sessions for able in each),
            raw_prompts=any(able.raw_prompts for able in each),
            continues=_CONTINUES[max(_CONTINUES.index(able.continues) for able in each)],
            server=each[0].server if len({able.server for able in each}) == 1 else None,
            guards=_of_all([able.guards for able in each]),
        )

    @property
    def prompt_template(self) -> PromptTemplate:
        """The template of the first that has one.

        Raises:
            InvalidRequest: When none has.
        """
        for member in self.usable:
            if (template := template_of(member.backend)) is not None:
                return template
        raise InvalidRequest(f"No backend behind {self._wrapper} has a tokenizer; give one of them tokenizer=….")

    async def start(self) -> None:
        """Start all; those that can never serve are left out, unless all are such.

        Raises:
            LlamaError: The first one's, when none can serve.
        """
        self.check_open()
        self._starts += 1
        if self._starts > 1:
            return
        async with anyio.create_task_group() as tasks:
            for member in self.all:
                tasks.start_soon(_start, member)
        if not self.usable and self.all[0].unusable is not None:
            raise self.all[0].unusable

    def of(self, backend: Backend) -> Member:
        """Return the member that a backend is.

        Raises:
            InvalidRequest: It is none.
        """
        for member in self.all:
            if member.backend is backend:
                return member
        raise InvalidRequest(f"This {self._wrapper} wrapper does not hold {shown(backend)}.")

    async def add(self, backend: Backend | str) -> None:
        """Start one more backend, and send requests to it from then on.

        Raises:
            LlamaError: It cannot serve.
        """
        self.check_open()
        member = Member(opened(backend), self._breaker, self._made)
        self._made += 1
        try:
            await member.backend.start()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await member.backend.aclose()
            raise
        self.all.append(member)

    async def remove(self, backend: Backend) -> None:
        """Close a backend, whose running requests end with an error that others may mend, and forget it.

        Raises:
            InvalidRequest: It is none of the members.
        """
        member = self.of(backend)
        member.draining = member.removed = True
        self._last = self.capabilities
        self.all.remove(member)
        await member.backend.aclose()

    async def aclose(self) -> None:
        """Close all once every client that started them has closed them; may be called more often."""
        self._starts -= 1
        if self._starts > 0:
            return
        self.closed = True
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for member in self.all:
                    tasks.start_soon(member.backend.aclose)

    def check_open(self) -> None:
        """Raise `ServerFault` when closed."""
        if self.closed:
            raise ServerFault(
                f"This {self._wrapper} wrapper is closed; make another one.", backend=self._wrapper, retryable=False
            )


def opened(backend: Backend | str) -> Backend:
    """Return the backend itself, or the one that a string names.

    Raises:
        BackendMissing: For a name that stands for none.
        InvalidRequest: For anything else.
    """
    if isinstance(backend, str):
        return open_backend(backend)
    if not isinstance(cast("Any", backend), Backend):
        raise InvalidRequest(f"A wrapper holds backends, or strings that name them; got {shown(backend)}.")
    return backend


async def _start(member: Member) -> None:
    try:
        await member.backend.start()
    except LlamaError as error:
        member.unusable = error


def _of_all(each: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Return the guards that stand in front of every backend; None where it is unknown of one."""
    known = [names for names in each if names is not None]
    if len(known) < len(each):
        return None
    return tuple(name for name in known[0] if all(name in names for names in known))


def _most(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return max(known) if len(known) == len(counts) else None
