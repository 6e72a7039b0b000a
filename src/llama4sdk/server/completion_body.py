"""A completion request: its fields, and the raw prompts that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llama4sdk.request import Request
from llama4sdk.sampling import MOST_LOGPROBS
from llama4sdk.server.failures import ApiError, refused
from llama4sdk.server.sampling_fields import SamplingFields

if TYPE_CHECKING:
    from llama4sdk.server.options import ServerOptions

_DEFAULT_TOKENS = 16  # as OpenAI's API has it


class CompletionBody(SamplingFields):
    """The fields of `POST /v1/completions`."""

    prompt: Any
    echo: bool | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    suffix: str | None = None
    best_of: int | None = None
    add_special_tokens: bool | None = None


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """A completion request, ready to run.

    Args:
        body: Its fields.
        prompts: The prompts, as text or token ids.
        max_tokens: Most tokens of an answer; 0 for the prompt alone, None for all that the context leaves.
    """

    body: CompletionBody
    prompts: tuple[str | tuple[int, ...], ...]
    max_tokens: int | None

    def requests(self, prompts: list[tuple[int, ...] | str], options: ServerOptions) -> list[Request]:
        """Return the requests for prompts, `n` for each.

        Raises:
            ApiError: A parameter is out of range.
        """
        body = self.body
        return [
            Request(
                (),
                sampling=body.sampling(
                    max_tokens=1 if self.max_tokens == 0 else self.max_tokens, logprobs=body.logprobs, choice=choice
                ),
                deadlines=options.deadlines,
                priority=-(body.priority or 0),
                cache_salt=body.cache_salt or "",
                raw=prompt,
            )
            for prompt in prompts
            for choice in range(body.choices)
        ]


def completion_call(body: CompletionBody, options: ServerOptions) -> CompletionCall:
    """Return what a body asks for.

    Raises:
        ApiError: The body asks for something that is not there.
    """
    if body.suffix:
        raise refused("suffix is not supported by this server; leave it out.", "suffix")
    if body.best_of is not None and body.best_of != body.choices:
        raise refused("best_of is not supported by this server; leave it out, or ask for n answers.", "best_of")
    for name, count in (("logprobs", body.logprobs), ("prompt_logprobs", body.prompt_logprobs)):
        if count is not None and not 0 <= count <= MOST_LOGPROBS:
            raise refused(f"Invalid value for '{name}': it is 0 to {MOST_LOGPROBS}.", name, "invalid_value")
    if body.prompt_logprobs is not None and body.stream:
        raise refused("prompt_logprobs come with answers that are not streamed; leave stream out.", "prompt_logprobs")
    max_tokens = body.max_tokens if "max_tokens" in body.model_fields_set else _DEFAULT_TOKENS
    if max_tokens is not None and (max_tokens < 0 or (max_tokens == 0 and not body.echo)):
        raise refused("Invalid value for 'max_tokens': it is at least 1, or 0 with echo.", "max_tokens")
    prompts = _prompts(body.prompt)
    if len(prompts) * body.choices > options.max_choices:
        raise refused(
            f"A request may ask for at most {options.max_choices} answers, its prompts times n.",
            "prompt",
            "invalid_value",
        )
    return CompletionCall(body, prompts, max_tokens)


def _prompts(given: object) -> tuple[str | tuple[int, ...], ...]:
    """Return the prompts of the four forms: text, token ids, and lists of either."""
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not given:
        raise _no_prompt()
    items = cast("list[object]", given)
    if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return (tuple(cast("list[int]", items)),)
    return tuple(_prompt(item) for item in items)


def _prompt(given: object) -> str | tuple[int, ...]:
    if isinstance(given, str):
        return given
    if isinstance(given, list) and given:
        ids = cast("list[object]", given)
        if all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
            return tuple(cast("list[int]", ids))
    raise _no_prompt()


def _no_prompt() -> ApiError:
    return refused("Invalid value for 'prompt': it is a string, a list of token ids, or a list of either.", "prompt")
