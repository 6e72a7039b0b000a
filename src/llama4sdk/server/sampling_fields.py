"""Fields that chat and completion requests share, and the sampling that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from llama4sdk.errors import InvalidRequest
from llama4sdk.request import Sampling
from llama4sdk.server.body import Body
from llama4sdk.server.failures import refused

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class StreamOptions(Body):
    """`stream_options` of a request."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SamplingFields(Body):
    """Fields that chat and completion requests share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    # Without a meaning here: who asks, how the account is billed, what is kept.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def choices(self) -> int:
        """How many answers each prompt gets.

        Raises:
            ApiError: It is not a positive number.
        """
        if self.n is not None and self.n < 1:
            raise refused("Invalid value for 'n': it is at least 1.", "n", "invalid_value")
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, *, max_tokens: int | None, logprobs: int | None, choice: int = 0) -> Sampling:
        """Return the parameters of one of the answers.

        Args:
            max_tokens: Most tokens of the answer.
            logprobs: Alternatives that are reported for each token; None for no report.
            choice: The answer's number; with a seed, each has its own.

        Raises:
            ApiError: A parameter is out of range.
        """
        seed = None if self.seed is None else self.seed + choice
        return _in_range(
            lambda: Sampling(
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=0 if self.top_k == -1 else self.top_k,
                min_p=self.min_p,
                max_tokens=max_tokens,
                min_tokens=self.min_tokens or 0,
                stop=() if self.stop is None else self.stop,
                stop_token_ids=self.stop_token_ids or (),
                seed=seed,
                repetition_penalty=self.repetition_penalty,
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
                logprobs=logprobs,
                logit_bias=cast("Any", self.logit_bias or {}),  # checked there, with token ids as strings
            )
        )


def _in_range(make: Callable[[], T]) -> T:
    """Return what is made; a refusal names the field that it begins with."""
    try:
        return make()
    except InvalidRequest as error:
        field = next((word for word in str(error).split()[:5] if word in Sampling.__dataclass_fields__), None)
        raise refused(str(error), field, "invalid_value") from None
