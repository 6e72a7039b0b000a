"""`Limited`: no more requests and tokens than an account allows."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from llama4sdk.deadline_clock import Clock
from llama4sdk.errors import InvalidRequest, Overloaded
from llama4sdk.prompting.answer_ids import answer_ids
from llama4sdk.prompting.raw import raw_ids
from llama4sdk.request import Request
from llama4sdk.routing.limited_request import LimitedRequest
from llama4sdk.routing.limited_session import LimitedSession
from llama4sdk.routing.limiter import Limiter
from llama4sdk.routing.wrapper import Wrapper
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from llama4sdk.backend import Answers, Backend, BackendLoad, Capabilities, KeptSession
    from llama4sdk.events import Event, TokenLogprob
    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.request import RawPrompt


class Limited(Wrapper):
    """Keeps requests to a backend within limits; those that have to wait are served fairly.

        Limited(HttpBackend("https://api.example.com/v1", tokenizer="tokenizer.json"), 500, 200_000)

    Tokens are counted before a request is sent, exactly, images included: the prompt by the backend's tokenizer, the
    answer as `max_tokens`, or as the mean of answers so far; tokens that it did not take are given back. Requests that
    wait get a share by tenant (the request's `cache_salt`) and priority; one that would wait longer than `max_wait` or
    its deadlines is refused with `Overloaded(retry_after)`. Refusals of the server, its `Retry-After` and its headers
    about rate limits slow the rates down, and answers let them grow again.

    Args:
        backend: The backend, or a string that names it.
        requests_per_minute: Most requests in a minute; None for no limit.
        tokens_per_minute: Most tokens in a minute, of prompts and answers.
        concurrency: Most requests at the same time.
        burst: Seconds of a rate that may be saved up while nothing is sent.
        max_wait: Most seconds that a request waits.
        limiter: Limits that are shared with other wrappers, in place of all these.
        tenant: Tells whose a request is; left out, its `cache_salt`.
        count: Counts a prompt's tokens, for a backend without a tokenizer; it may block, and runs in a thread.

    Raises:
        BackendMissing: For a name that stands for no backend.
        InvalidRequest: For limits out of range, or beside a limiter.
    """

    def __init__(
        self,
        backend: Backend | str,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        concurrency: int | None = None,
        *,
        burst: float = 1.0,
        max_wait: float = 60.0,
        limiter: Limiter | None = None,
        tenant: Callable[[Request], str] | None = None,
        count: Callable[[Request], int] | None = None,
    ) -> None:
        limits = (requests_per_minute, tokens_per_minute, concurrency)
        if limiter is not None and any(limit is not None for limit in limits):
            raise InvalidRequest("Give limits or a limiter that has them, not both.")
        self._limiter = limiter or Limiter(*limits, burst=burst, max_wait=max_wait)
        self._tenant = tenant
        self._count = count
        super().__init__((backend,), "limited")

    @property
    def capabilities(self) -> Capabilities:
        """The backend's."""
        return self._members.all[0].backend.capabilities

    @property
    def current_load(self) -> BackendLoad | None:
        """The backend's load, and the requests that wait for the limits; None where it reports none."""
        load = super().current_load
        return None if load is None else replace(load, waiting=load.waiting + self._limiter.waiting)

    @property
    def limiter(self) -> Limiter:
        """The limits, to be shared with other wrappers: `Limited(other, limiter=limited.limiter)`."""
        return self._limiter

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run one request; see `Backend.open`. It waits its turn when its first event is asked for."""
        return self.limited(self._members.all[0].backend, request)

    async def score_prompt(self, raw: RawPrompt, *, top: int = 0) -> tuple[TokenLogprob, ...]:
        """Return the log-probability of every token of a prompt, which counts as a request; see `ScoresPrompts`.

        Raises:
            InvalidRequest: The backend scores no prompts.
            LlamaError: The prompt cannot be scored; `Overloaded` where the limits leave no room for it.
        """
        async with self._admitted(Request((), raw=raw)):
            return await super().score_prompt(raw, top=top)

    async def session(self, request: Request) -> KeptSession:
        """Return a session, each turn of which keeps to the limits; see `KeepsSessions`.

        Raises:
            InvalidRequest: The backend keeps no sessions.
            LlamaError: As a request does.
        """
        async with self._admitted(request):
            return LimitedSession(await super().session(request), self.limited)

    async def restore(self, path: str | os.PathLike[str]) -> KeptSession:
        """Return the session that was saved to a file, each turn of which keeps to the limits.

        Raises:
            CheckpointError: The file cannot be read, or belongs to another model.
            InvalidRequest: The backend keeps no sessions.
        """
        return LimitedSession(await super().restore(path), self.limited)

    def limited(self, answers: Answers, request: Request, *, held: int = 0) -> LimitedRequest:
        """Return the block of a request that waits its turn.

        Args:
            answers: The backend, or a session of it.
            request: The request.
            held: Tokens that the session holds, which count as part of the prompt.
        """

        async def tokens(request: Request) -> tuple[int, float]:
            prompt = await self._prompt_tokens(request)
            answer = request.sampling.max_tokens
            counts = self._limiter.counts_tokens
            return prompt + held * counts, (self._limiter.mean_answer if answer is None else float(answer)) * counts

        return LimitedRequest(self._members, answers, request, self._limiter, self._tenant_of(request), tokens)

    @asynccontextmanager
    async def _admitted(self, request: Request) -> AsyncGenerator[None]:
        """Let a call take its turn whose answer is no stream: its prompt is all that it takes."""
        self._members.check_open()
        clock = Clock(request.deadlines, anyio.current_time())
        phase, until = clock.limit(anyio.current_time())
        tenant, tokens = self._tenant_of(request), 0
        with anyio.CancelScope(deadline=until) as scope:
            tokens = await self._prompt_tokens(request)
            patience = until - anyio.current_time()
            await self._limiter.admit(tokens, tenant=tenant, priority=request.priority, patience=patience)
        if scope.cancelled_caught:
            raise clock.exceeded(phase)
        try:
            yield
        except Overloaded as error:
            self._limiter.refused(error.retry_after)
            raise
        finally:
            self._limiter.release(tokens, tokens)

    def _tenant_of(self, request: Request) -> str:
        return request.cache_salt if self._tenant is None else self._tenant(request)

    async def _prompt_tokens(self, request: Request) -> int:
        """Return the tokens of a prompt, where they have to be counted."""
        if not self._limiter.counts_tokens:
            return 0
        if self._count is not None:
            count = self._count
            return await run_in_daemon_thread(lambda: count(request))
        template = self._template()
        return await run_in_daemon_thread(lambda: prompt_tokens(template, request))

    def _template(self) -> PromptTemplate:
        try:
            return self.prompt_template
        except InvalidRequest as error:
            raise InvalidRequest(
                "tokens_per_minute needs the model's tokenizer: give the backend tokenizer=…, or Limited count=…."
            ) from error


def prompt_tokens(template: PromptTemplate, request: Request) -> int:
    """Return how many tokens a request's prompt takes; decodes images, so it runs in a thread."""
    begun = len(answer_ids(template.tokenizer, request.answer_so_far)) if request.answer_so_far else 0
    if request.raw is not None:
        return len(raw_ids(template.tokenizer, request.raw)) + begun
    rendered = template.render(request.messages, request.tools, tool_choice=request.tool_choice, output=request.output)
    return rendered.count.total + begun
