"""One prompt that is scored: asked, again where `retry` allows it, and read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio

from llama4_http import prompt_scores
from llama4_http.composing import rendered
from llama4_http.errors import error_for_status, named
from llama4_http.retry import retried_status
from llama4sdk.errors import DeadlineExceeded, LlamaError
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from llama4_http.context import Context
    from llama4_http.errors import Sent
    from llama4sdk.events import TokenLogprob
    from llama4sdk.request import RawPrompt, Request


async def score(context: Context, request: Request, top: int, sent: Sent) -> tuple[TokenLogprob, ...]:
    """Return one entry for each token of a request's raw prompt; see `ScoresPrompts.score_prompt`.

    Raises:
        LlamaError: The prompt cannot be scored.
    """
    try:
        with anyio.fail_after(request.deadlines.first_token):
            return await _scored(context, request, top, sent)
    except TimeoutError:
        error = DeadlineExceeded("The server did not score the prompt in time.", phase="first_token")
        raise named(error, sent) from None
    except LlamaError as error:
        raise named(error, sent) from error.__cause__


async def _scored(context: Context, request: Request, top: int, sent: Sent) -> tuple[TokenLogprob, ...]:
    profile, settings = context.profile, context.settings
    prompt_scores.check(request, profile, settings)
    prompt: RawPrompt = request.raw or ""
    if settings.prompt_mode == "client":
        prompt = tuple(await rendered(context, request))
    body = prompt_scores.scoring_body(request, profile, settings, model=context.model, prompt=prompt, top=top)
    answer = await _answer(context, body, sent)
    return await run_in_daemon_thread(partial(prompt_scores.read_scores, answer, prompt, top))


async def _answer(context: Context, body: bytes, sent: Sent) -> bytes:
    """Return the body of the server's answer."""
    settings, url = context.settings, f"{context.url}/completions"
    attempt = 0
    while True:
        attempt += 1
        status, headers, answer = await context.link.fetch(
            "POST", url, sent, content=body, most=settings.max_answer_bytes
        )
        if status == 200:
            return answer
        error = error_for_status(status, headers, answer, sent)
        wait = settings.retries.wait_before(attempt, retry_after=getattr(error, "retry_after", None))
        if wait is None or not retried_status(status, headers):
            raise error
        await anyio.sleep(wait)
