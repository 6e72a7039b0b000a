"""From the logits of a step to one token per sequence: penalties, token masks, truncation, the draw.

The same functions serve the CPU and steps that run beside the host; only where a step's sampling parameters
lie differs (`SamplingColumns`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from llama4_local.decoding.adjusting import adjust
from llama4_local.decoding.reports import ReportedLogits, Reports
from llama4_local.decoding.row_rules import RowRules
from llama4_local.decoding.sending import sent
from llama4_local.ops.filters import Filters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.decoding.token_mask import TokenMask
    from llama4_local.ops.interface import Ops
    from llama4sdk.request import Sampling

_LARGEST_TOP_K = 2**31 - 1  # beyond any vocabulary
_SEEDS = 2**63  # seeds are int64 on the device


@dataclass(frozen=True, slots=True)
class ResolvedSampling:
    """The sampling parameters of one sequence, every default filled in.

    Args:
        seed: Decides the draws, together with the number of tokens written; int64.
        stop_ids: Tokens that end the answer.
        min_tokens: No stop token before so many tokens.
        logprobs: Alternatives to report for each token; None to report nothing.
        biases: Token ids, and what is added to their logits.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    logprobs: int | None = None
    biases: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(
        cls,
        asked: Sampling,
        *,
        temperature: float | None,
        top_p: float | None,
        stop_ids: Sequence[int],
        seed: int,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        begun: int = 0,
    ) -> ResolvedSampling:
        """Fill open parameters of a request with the checkpoint's defaults and the given seed.

        Args:
            asked: The request's parameters.
            temperature: The checkpoint's.
            top_p: The checkpoint's.
            stop_ids: The checkpoint's.
            seed: Used where the request names none.
            top_k: The checkpoint's.
            min_p: The checkpoint's.
            repetition_penalty: The checkpoint's.
            begun: Tokens that the answer begins with; `min_tokens` counts further ones.
        """

        def first(*values: float | None) -> float:
            return next(value for value in values if value is not None)

        return cls(
            temperature=first(asked.temperature, temperature, 0.0),
            top_p=first(asked.top_p, top_p, 1.0),
            top_k=min(int(first(asked.top_k, top_k, 0)), _LARGEST_TOP_K),
            min_p=first(asked.min_p, min_p, 0.0),
            repetition_penalty=first(asked.repetition_penalty, repetition_penalty, 1.0),
            presence_penalty=asked.presence_penalty or 0.0,
            frequency_penalty=asked.frequency_penalty or 0.0,
            seed=(seed if asked.seed is None else asked.seed) % _SEEDS,
            stop_ids=frozenset((*stop_ids, *asked.stop_token_ids)),
            min_tokens=asked.min_tokens + begun if asked.min_tokens else 0,
            logprobs=asked.logprobs,
            biases=asked.biases,
        )

    @property
    def penalized(self) -> bool:
        """Whether earlier tokens change the logits."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def ranked(self) -> bool:
        """Whether tokens must be ranked by probability before the draw."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1)


@dataclass(slots=True)
class SamplerState:
    """The sampler's state of one sequence.

    Args:
        sampling: Its parameters.
        prompt: Its prompt's tokens.
        written: The answer so far; the detokenizer appends to it.
        mask: Rules tokens out at each position, as a grammar does.
        drafted: Tokens behind the answer so far that this row takes for granted.
    """

    sampling: ResolvedSampling
    prompt: Sequence[int]
    written: list[int]
    mask: TokenMask | None = None
    drafted: tuple[int, ...] = ()
    _failure: str | None = field(default=None, init=False)
    _seen: Tensor | None = field(default=None, init=False)  # [vocab], bool
    _counts: Tensor | None = field(default=None, init=False)  # [vocab], int32
    _counted: int = field(default=0, init=False)

    @property
    def count(self) -> int:
        """Tokens before the one that is sampled, those of the prompt left out."""
        return len(self.written) + len(self.drafted)

    @property
    def problem(self) -> str | None:
        """The reason why no token could be sampled, where it is known."""
        return self._failure or (self.mask.problem if self.mask else None)

    @property
    def takes_drafts(self) -> bool:
        """Whether rows behind drafted tokens can be sampled: no mask, no penalty, which those tokens would change."""
        return not (self.mask or self.sampling.penalized)

    def behind(self, drafted: tuple[int, ...]) -> SamplerState:
        """Return the state of the row behind drafted tokens."""
        return replace(self, drafted=drafted) if drafted else self

    def is_plain(self, ahead: int = 0) -> bool:
        """Whether logits are sampled as they are: no penalty, no bias, no mask, no report.

        Args:
            ahead: Tokens of the in-flight step that the answer does not hold yet.
        """
        sampling = self.sampling
        waits = self.count + ahead < sampling.min_tokens
        return not (sampling.penalized or sampling.biases or self.mask or waits or sampling.logprobs is not None)

    def allowed(self) -> bytes:
        """Return the mask's bits for the next token; none is allowed where the mask itself fails."""
        if self.mask is None:
            return b""
        try:
            return self.mask.allowed(self.written)
        except Exception as error:  # noqa: BLE001 - a mask that fails ends its own request alone
            self._failure = f"The token mask of this request failed with {type(error).__name__}."
            return b"\0"

    def rules(self, like: Tensor) -> RowRules:
        """Return what changes its logits before the next token.

        Args:
            like: A row of logits, for size and device.
        """
        sampling = self.sampling
        waits = self.count < sampling.min_tokens
        return RowRules(
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
            history=self.history(like) if sampling.penalized else None,
            biases=sampling.biases,
            allowed=self.allowed() if self.mask else None,
            excluded=tuple(token for token in sampling.stop_ids if token < like.shape[0]) if waits else (),
            logprobs=sampling.logprobs,
        )

    def history(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens that occurred, and how often each was written: [vocab] each.

        Args:
            like: A row of logits, for size and device.
        """
        if self._seen is None or self._counts is None:
            self._seen = torch.zeros_like(like, dtype=torch.bool)
            self._counts = torch.zeros_like(like, dtype=torch.int32)
            self._seen.index_fill_(0, sent(self.prompt, torch.int64, like.device), True)
        for token in self.written[self._counted :]:
            self._seen[token] = True
            self._counts[token] += 1
        self._counted = len(self.written)
        return self._seen, self._counts


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token sampled for one sequence.

    Args:
        token: The token; None when the logits were unusable.
        logprob: Its log-probability at temperature 1 before any penalty or filter, when asked for.
        top: The most probable tokens with theirs, in falling order.
    """

    token: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class SamplingColumns(NamedTuple):
    """The sampling parameters of a step's rows on the device, as `Ops.sample` takes them."""

    filters: Filters
    seeds: Tensor  # [rows], int64
    steps: Tensor  # [rows], int64: tokens that the row has sampled before


def sample(
    ops: Ops, logits: Tensor, states: Sequence[SamplerState], columns: SamplingColumns
) -> tuple[Tensor, Reports | None]:
    """Sample the next token of every sequence; a row depends on its own logits, parameters and history only.

    Args:
        ops: Samples on the logits' device.
        logits: [rows, vocab], fp32; the rows' rules are written into it.
        states: One for each row.
        columns: Their parameters.

    Returns:
        Tokens, [rows], int64, -1 where no token is possible; and the reports of rows that ask for them.
    """
    rules = [state.rules(logits[0]) for state in states]
    reported = ReportedLogits.of(logits, rules)
    adjust(ops, logits, rules)
    tokens = ops.sample(logits, *columns)
    return tokens, reported.reports(tokens) if reported else None


def sampled_tokens(tokens: Tensor, reports: Reports | None) -> list[SampledToken]:
    """Return one value for each row of `sample`'s tokens."""
    by_row = reports.by_row() if reports else {}
    return [
        SampledToken(None) if token < 0 else SampledToken(token, *by_row.get(row, (None, ())))
        for row, token in enumerate(tokens.tolist())
    ]


def sampling_columns(states: Sequence[SamplerState], device: torch.device) -> SamplingColumns:
    """Return the parameters of a step's rows as tensors of their own."""
    rows = [state.sampling for state in states]

    def column(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    filters = Filters(
        temperature=column([row.temperature for row in rows], torch.float32),
        top_k=column([row.top_k for row in rows], torch.int64),
        top_p=column([row.top_p for row in rows], torch.float64),
        min_p=column([row.min_p for row in rows], torch.float32),
        ranked=any(row.ranked for row in rows),
    )
    seeds = column([row.seed for row in rows], torch.int64)
    return SamplingColumns(filters, seeds, column([state.count for state in states], torch.int64))
