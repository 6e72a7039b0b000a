"""From the logits of a batch to one token per sequence, each by its own rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llama4_local.decoding import token_mask as masks
from llama4_local.decoding.token_mask import TokenMask
from llama4_local.ops.filters import Filters
from llama4_local.ops.reference import sampling
from llama4sdk.request import Sampling


@dataclass(frozen=True, slots=True)
class ResolvedSampling:
    """How one sequence's tokens are chosen, every default filled in.

    Args:
        seed: Decides the draws, together with the number of tokens written.
        stop_ids: Tokens that end the answer.
        min_tokens: No stop token before so many tokens.
        logprobs: Alternatives to report for each token; None to report nothing.
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

    @classmethod
    def of(
        cls, asked: Sampling, *, temperature: float | None, top_p: float | None, stop_ids: Sequence[int], seed: int
    ) -> ResolvedSampling:
        """Fill what the request leaves open with the checkpoint's defaults and the given seed."""

        def first(*values: float | None) -> float:
            return next(value for value in values if value is not None)

        return cls(
            temperature=first(asked.temperature, temperature, 0.0),
            top_p=first(asked.top_p, top_p, 1.0),
            top_k=asked.top_k or 0,
            min_p=asked.min_p or 0.0,
            repetition_penalty=first(asked.repetition_penalty, 1.0),
            presence_penalty=asked.presence_penalty or 0.0,
            frequency_penalty=asked.frequency_penalty or 0.0,
            seed=seed if asked.seed is None else asked.seed,
            stop_ids=frozenset((*stop_ids, *asked.stop_token_ids)),
            min_tokens=asked.min_tokens,
            logprobs=asked.logprobs,
        )

    @property
    def penalized(self) -> bool:
        """Whether tokens that stood there before count."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


@dataclass(slots=True)
class SamplerState:
    """One sequence as the sampler sees it.

    Args:
        rules: How to choose.
        prompt: Its prompt's tokens.
        written: The answer so far; the engine appends to it.
        mask: Rules tokens out at each place, as a grammar does.
    """

    rules: ResolvedSampling
    prompt: Sequence[int]
    written: list[int]
    mask: TokenMask | None = None
    _seen: Tensor | None = field(default=None, init=False)  # [vocab], bool
    _counts: Tensor | None = field(default=None, init=False)  # [vocab], int32
    _counted: int = field(default=0, init=False)

    def history(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return which tokens were seen and how often each was written: [vocab] each.

        Args:
            like: A row of logits, for size and device.
        """
        if self._seen is None or self._counts is None:
            self._seen = torch.zeros_like(like, dtype=torch.bool)
            self._counts = torch.zeros_like(like, dtype=torch.int32)
            self._seen[torch.tensor(self.prompt, dtype=torch.int64, device=like.device)] = True
        for token in self.written[self._counted :]:
            self._seen[token] = True
            self._counts[token] += 1
        self._counted = len(self.written)
        return self._seen, self._counts


@dataclass(frozen=True, slots=True)
class SampledToken:
    """What was chosen for one sequence.

    Args:
        token: The token; None when the logits were unusable.
        logprob: Its log-probability at temperature 1 before any penalty or filter, when asked for.
        top: Likeliest tokens with theirs, likeliest first.
    """

    token: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def sample(logits: Tensor, rows: Sequence[SamplerState]) -> list[SampledToken]:
    """Choose the next token of every sequence.

    A row's choice depends on its own logits, rules and history only.

    Args:
        logits: [n, vocab], fp32.
        rows: One chooser for each row.
    """
    adjusted = adjust(logits, rows)
    bad = sampling.unusable(adjusted)
    tokens = sampling.likeliest(adjusted)
    drawing = [index for index, row in enumerate(rows) if row.rules.temperature > 0]
    if drawing:
        usable = torch.where(bad[drawing, None], 0, adjusted[drawing])
        tokens[drawing] = _draw(usable, [rows[index] for index in drawing])
    found = reports(logits, tokens, rows)
    return [
        SampledToken(None) if is_bad else SampledToken(token, *found.get(index, (None, ())))
        for index, (token, is_bad) in enumerate(zip(tokens.tolist(), bad.tolist(), strict=True))
    ]


def adjust(logits: Tensor, rows: Sequence[SamplerState]) -> Tensor:
    """Return the scores after penalties and masks: logits [n, vocab] themselves where no row has any."""
    penalized = [index for index, row in enumerate(rows) if row.rules.penalized]
    early = [index for index, row in enumerate(rows) if len(row.written) < row.rules.min_tokens]
    packed = {index: row.mask.allowed(row.written) for index, row in enumerate(rows) if row.mask}
    adjusted = logits.clone() if penalized or early else logits
    if penalized:
        adjusted[penalized] = _penalize(logits[penalized], [rows[index] for index in penalized])
    if packed:
        adjusted = masks.apply(adjusted, packed)
    for index in early:
        _rule_out_ends(adjusted[index], rows[index].rules)
    return adjusted


def _penalize(logits: Tensor, rows: Sequence[SamplerState]) -> Tensor:
    histories = [row.history(of) for row, of in zip(rows, logits, strict=True)]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)

    return sampling.penalize(
        logits,
        torch.stack([seen for seen, _ in histories]),
        torch.stack([counts for _, counts in histories]),
        column([row.rules.repetition_penalty for row in rows]),
        column([row.rules.presence_penalty for row in rows]),
        column([row.rules.frequency_penalty for row in rows]),
    )


def _rule_out_ends(logits: Tensor, rules: ResolvedSampling) -> None:
    logits[[token for token in rules.stop_ids if token < logits.shape[0]]] = -torch.inf


def _draw(logits: Tensor, rows: Sequence[SamplerState]) -> Tensor:
    device = logits.device
    rules = [row.rules for row in rows]
    filters = Filters(
        temperature=torch.tensor([rule.temperature for rule in rules], dtype=torch.float32, device=device),
        top_k=torch.tensor([rule.top_k for rule in rules], dtype=torch.int64, device=device),
        top_p=torch.tensor([rule.top_p for rule in rules], dtype=torch.float64, device=device),
        min_p=torch.tensor([rule.min_p for rule in rules], dtype=torch.float32, device=device),
        ranked=any(rule.top_k > 0 or rule.top_p < 1 for rule in rules),
    )
    seeds = torch.tensor([rule.seed for rule in rules], dtype=torch.int64, device=device)
    steps = torch.tensor([len(row.written) for row in rows], dtype=torch.int64, device=device)
    return sampling.draw(logits, filters, sampling.uniforms(seeds, steps))


def reports(
    logits: Tensor, tokens: Tensor, rows: Sequence[SamplerState]
) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
    """Return the log-probabilities of those rows that ask for them; see `SampledToken`.

    Args:
        logits: [n, vocab], before penalties and masks.
        tokens: [n], int64, what was chosen.
        rows: One chooser for each row.
    """
    asked = {index: row.rules.logprobs for index, row in enumerate(rows) if row.rules.logprobs is not None}
    if not asked:
        return {}
    places = list(asked)
    own, ids, values = sampling.log_probabilities(logits[places], tokens[places], max(asked.values()))
    return {
        index: (logprob, tuple(zip(top, scores, strict=True))[: asked[index]])
        for index, logprob, top, scores in zip(places, own.tolist(), ids.tolist(), values.tolist(), strict=True)
    }
