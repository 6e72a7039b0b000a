"""Answers written from random scores, and texts that a grammar takes."""

from __future__ import annotations

import os
from typing import Any

import torch

from llama4_local.decoding.grammar import Grammars
from llama4_local.decoding.sampler import ResolvedSampling, SamplerState
from llama4sdk import Request
from llama4sdk.messages import conversation
from llama4sdk.prompting import Tokenizer
from local.sampled_rows import sample
from local.small_backends import EOM, EOT
from local.small_checkpoints import VOCABULARY

# How many random schemas and tool sets to try; the whole thousand takes a few minutes.
MANY = int(os.environ.get("LLAMA4_RANDOM_FORMS", "25"))
ROOM = 400  # tokens


def asked(**options: Any) -> Request:
    return Request(conversation("?"), **options)


def written(grammars: Grammars, tokenizer: Tokenizer, request: Request, seed: int) -> str | None:
    """Write an answer from random scores; None when it takes more than `ROOM` tokens."""
    mask = grammars.mask_for(request)
    assert mask is not None
    rules = ResolvedSampling(temperature=1.5, seed=seed)
    sampler_state = SamplerState(rules, [0], [], mask)
    random_scores = torch.Generator().manual_seed(seed)
    likelier = [*tokenizer.encode('"]})'), EOT]
    for _ in range(ROOM):
        scores = torch.randn(1, VOCABULARY, generator=random_scores) * 3
        scores[0, likelier] += 6.0  # else strings of random letters hardly ever end
        (sampled,) = sample(scores, [sampler_state])
        assert sampled.token is not None, "every token was ruled out"
        sampler_state.written.append(sampled.token)
        if sampled.token in (EOT, EOM):
            return tokenizer.decode(sampler_state.written[:-1])
    return None


def accepts(grammars: Grammars, tokenizer: Tokenizer, request: Request, text: str) -> bool:
    """Whether an answer may be written so, to its end."""
    mask = grammars.mask_for(request)
    assert mask is not None
    ids = [*tokenizer.encode(text), EOT]
    return all(mask.allowed(ids[:place])[token // 8] >> token % 8 & 1 for place, token in enumerate(ids))
