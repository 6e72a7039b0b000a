"""The base of wrappers around several backends: their life, and the features that they pass on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.backend import KeepsSessions, ScoresPrompts
from llama4sdk.routing.asking import ask_in_turn, become_ready, load_of, requests_running
from llama4sdk.routing.members import Members

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from llama4sdk.backend import Backend, BackendLoad, Capabilities, KeptSession
    from llama4sdk.errors import LlamaError
    from llama4sdk.events import TokenLogprob
    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.request import RawPrompt, Request
    from llama4sdk.routing.breaker import Breaker
    from llama4sdk.routing.members import Member


class Wrapper:
    """A backend that holds backends.

    Args:
        backends: The backends, or strings that name them.
        name: The wrapper's name.
        breaker: When a backend rests; None for the default.

    Raises:
        BackendMissing: For a name that stands for no backend.
        InvalidRequest: Without a backend.
    """

    def __init__(self, backends: Sequence[Backend | str], name: str, breaker: Breaker | None = None) -> None:
        self._members = Members(backends, name, breaker)

    @property
    def members(self) -> Members:
        """The backends, with their health and their load."""
        return self._members

    @property
    def capabilities(self) -> Capabilities:
        """The features of at least one backend; promises about answers only where all keep them."""
        return self._members.capabilities

    @property
    def prompt_template(self) -> PromptTemplate:
        """The template of the first backend that has one.

        Raises:
            InvalidRequest: When none has.
        """
        return self._members.prompt_template

    @property
    def current_load(self) -> BackendLoad | None:
        """The load of all backends together, ready where one is; None where none reports any."""
        return load_of(self._members)

    async def start(self) -> None:
        """Start all backends; one that can never serve is left out.

        Raises:
            LlamaError: When none can serve.
        """
        await self._members.start()

    async def ready(self) -> None:
        """Wait until every backend has loaded its model, or failed to.

        Raises:
            LlamaError: When none can serve.
        """
        await become_ready(self._members)

    async def requests_running(self) -> int | None:
        """Return how many requests all backends run, by their own count; None where one does not tell.

        Raises:
            LlamaError: One cannot be asked.
        """
        return await requests_running(self._members)

    async def score_prompt(self, raw: RawPrompt, *, top: int = 0) -> tuple[TokenLogprob, ...]:
        """Return the log-probability of every token of a prompt; see `ScoresPrompts`.

        Raises:
            InvalidRequest: No backend scores prompts.
            LlamaError: The prompt cannot be scored.
        """

        async def score(backend: ScoresPrompts) -> tuple[TokenLogprob, ...]:
            return await backend.score_prompt(raw, top=top)

        return await ask_in_turn(
            self._members,
            self.asked(),
            lambda member: isinstance(member.backend, ScoresPrompts),
            score,
            goes_on=self.goes_on,
            refusal=f"No backend behind {self.capabilities.name} scores prompts; use one that does, such as 'local'.",
        )

    async def session(self, request: Request) -> KeptSession:
        """Return a session of one backend, which then stays with that one; see `KeepsSessions`.

        Raises:
            InvalidRequest: No backend keeps sessions.
            LlamaError: As a request does.
        """

        async def begin(backend: KeepsSessions) -> KeptSession:
            return await backend.session(request)

        return await ask_in_turn(
            self._members, self.asked(), _keeps_sessions, begin, goes_on=self.goes_on, refusal=self._no_sessions()
        )

    async def restore(self, path: str | os.PathLike[str]) -> KeptSession:
        """Return the session that was saved to a file, at the first backend that can go on with it.

        Raises:
            CheckpointError: The file cannot be read, or belongs to another model.
            InvalidRequest: No backend keeps sessions.
        """

        async def restored(backend: KeepsSessions) -> KeptSession:
            return await backend.restore(path)

        return await ask_in_turn(
            self._members, self.asked(), _keeps_sessions, restored, goes_on=self.goes_on, refusal=self._no_sessions()
        )

    async def aclose(self) -> None:
        """Close all backends, once every client that started this one has closed it; may be called twice."""
        await self._members.aclose()

    def asked(self) -> Sequence[Member]:
        """Return the backends for a call that is no request, in the order in which they are tried."""
        return self._members.usable

    def goes_on(self, error: LlamaError) -> bool:
        """Return whether the next backend is asked after an error of such a call."""
        del error
        return False

    def _no_sessions(self) -> str:
        return (
            f"Sessions are not supported by any backend behind {self.capabilities.name}: send the whole conversation "
            "with chat() or stream(), or use a backend that keeps them, such as 'local'."
        )


def _keeps_sessions(member: Member) -> bool:
    return isinstance(member.backend, KeepsSessions) and member.backend.capabilities.sessions
