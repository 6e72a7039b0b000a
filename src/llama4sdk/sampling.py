"""Parameters of sampling, checked where they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from llama4sdk.checks import check_number, check_whole, explains_fields, shown
from llama4sdk.errors import InvalidRequest
from llama4sdk.parts import checked_text

MOST_LOGPROBS = 20  # alternatives that are reported for a token
_MOST_STOP_IDS = 10_000
_LARGEST = 2**31 - 1  # of counts and token ids: above any context and vocabulary


@explains_fields
@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of sampling. A parameter of None is left to the checkpoint's or the server's default.

    Args:
        temperature: 0 takes the argmax; up to 100.
        top_p: Smallest set of most probable tokens whose probabilities sum to it, in (0, 1]
            (nucleus sampling, Holtzman et al. 2020).
        top_k: Only the k most probable tokens; 0 for all.
        min_p: Only tokens at least this fraction as probable as the argmax, in [0, 1]
            (Nguyen et al. 2024).
        max_tokens: Most tokens to write; None for what the context leaves.
        min_tokens: No stop before so many tokens.
        stop: Strings that end the answer; they are not part of it.
        stop_token_ids: Token ids that end the answer, beside the model's own.
        seed: The same seed gives the same text on the same backend.
        repetition_penalty: Divides (or multiplies) the logits of tokens seen in prompt or answer,
            above 0 (CTRL, Keskar et al. 2019).
        presence_penalty: Taken off the logit of each token already in the answer, in [-2, 2].
        frequency_penalty: Taken off per occurrence in the answer, in [-2, 2].
        logprobs: Report the log-probability of each token, with so many alternatives, 0 to 20.
        logit_bias: By token id, what is added to its logit, -100 to 100; kept as pairs in the order of ids.
        n: How many answers `Llama4.chat` and `Llama4.complete` return, 1 to 128; the further ones are
            `reply.alternatives`. With a seed, each has its own: seed, seed + 1, …

    Raises:
        InvalidRequest: For a value outside its range.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] = ()
    n: int = 1

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, 100)
        check_number("top_p", self.top_p, 0, 1, above=True)
        check_whole("top_k", self.top_k, 0, _LARGEST)
        check_number("min_p", self.min_p, 0, 1)
        check_whole("max_tokens", self.max_tokens, 1, _LARGEST)
        check_whole("min_tokens", self.min_tokens, 0, _LARGEST, optional=False)
        check_whole("seed", self.seed, -(2**63), 2**63 - 1)
        check_number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        check_number("presence_penalty", self.presence_penalty, -2, 2)
        check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        check_whole("logprobs", self.logprobs, 0, MOST_LOGPROBS)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens}).")
        object.__setattr__(self, "stop", _stops(self.stop))
        object.__setattr__(self, "stop_token_ids", _stop_ids(self.stop_token_ids))
        check_whole("n", self.n, 1, 128, optional=False)
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """Pairs of `logit_bias`: token id, and what is added to its logit."""
        return cast("tuple[tuple[int, float], ...]", self.logit_bias)


def _stops(stop: object) -> tuple[str, ...]:
    if isinstance(stop, str):
        stop = (stop,)
    if not isinstance(stop, Sequence) or isinstance(stop, bytes | bytearray):
        hint = "; leave it out for none" if stop is None else ""
        raise InvalidRequest(f"stop is a string or a sequence of strings; got {shown(stop)}{hint}.")
    if len(stop) > 64:
        raise InvalidRequest(f"stop takes at most 64 strings; got {len(stop)}.")
    strings: list[str] = []
    for string in stop:
        if not isinstance(string, str) or not string or len(string) > 1000:
            raise InvalidRequest("Each stop string has 1 to 1000 characters.")
        strings.append(checked_text(string))
    return tuple(strings)


def _stop_ids(ids: object) -> tuple[int, ...]:
    if not isinstance(ids, Sequence | frozenset | set) or isinstance(ids, str | bytes):
        raise InvalidRequest(f"stop_token_ids is a sequence of token ids; got {shown(ids)}.")
    if len(ids) > _MOST_STOP_IDS:
        raise InvalidRequest(f"stop_token_ids takes at most {_MOST_STOP_IDS:,} ids; got {len(ids):,}.")
    numbers = tuple(ids)
    for number in numbers:
        check_whole("stop_token_ids", number, 0, _LARGEST, optional=False)
    return cast("tuple[int, ...]", numbers)


def _biases(given: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(given, Mapping | Sequence):
        raise InvalidRequest(f"logit_bias is a mapping from token ids to numbers; got {shown(given)}.")
    try:
        biases: dict[Any, Any] = {_token_id(token): bias for token, bias in dict(cast("Any", given)).items()}
    except (TypeError, ValueError):
        raise InvalidRequest(f"logit_bias is a mapping from token ids to numbers; got {shown(given)}.") from None
    for token, bias in biases.items():
        check_whole("A token id of logit_bias", token, 0, _LARGEST, optional=False)
        if bias is None:
            raise InvalidRequest(f"The logit_bias of token {token} is a number; got None.")
        check_number(f"The logit_bias of token {token}", bias, -100, 100)
    return tuple(sorted((token, float(bias)) for token, bias in biases.items()))


def _token_id(token: object) -> object:
    """Return a token id; JSON's keys are strings."""
    return int(token) if isinstance(token, str) and token.isascii() and token.isdigit() else token
