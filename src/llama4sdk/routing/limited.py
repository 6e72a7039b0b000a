"""`Limited`: no more requests and tokens than an account allows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llama4sdk.errors import InvalidRequest
from llama4sdk.prompting.answer_ids import answer_ids
from llama4sdk.prompting.raw import raw_ids
from llama4sdk.routing.limited_request import LimitedRequest
from llama4sdk.routing.limiter import Limiter
from llama4sdk.routing.wrapper import Wrapper
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from llama4sdk.backend import Backend, Capabilities
    from llama4sdk.events import Event
    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.request import Request


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
        """The backend's, without sessions, which would pass the limits by."""
        return replace(self._members.all[0].backend.capabilities, sessions=False)

    @property
    def limiter(self) -> Limiter:
        """The limits, to be shared with other wrappers: `Limited(other, limiter=limited.limiter)`."""
        return self._limiter

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run one request; see `Backend.open`. It waits its turn when its first event is asked for."""
        tenant = request.cache_salt if self._tenant is None else self._tenant(request)
        return LimitedRequest(self._members, request, self._limiter, tenant, self._tokens)

    async def _tokens(self, request: Request) -> tuple[int, float]:
        """Return the tokens of a prompt, and those that its answer may take."""
        if not self._limiter.counts_tokens:
            return 0, 0.0
        if self._count is not None:
            count = self._count
            prompt = await run_in_daemon_thread(lambda: count(request))
        else:
            template = self._template()
            prompt = await run_in_daemon_thread(lambda: prompt_tokens(template, request))
        answer = request.sampling.max_tokens
        return prompt, float(answer) if answer is not None else self._limiter.mean_answer

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
