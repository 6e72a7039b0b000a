"""A checkpoint's vocabulary against its tokenizer's: tokens that always stop, and ids that have no token."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from llama4sdk.prompting.special_tokens import STOP_TOKENS

if TYPE_CHECKING:
    from llama4_local.config.model import ModelConfig
    from llama4sdk.prompting import Tokenizer

_LOG = logging.getLogger(__name__)
_TRANSFORMERS_EOS = 2  # which its Llama 4 config writes where a model names none


def with_stops(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Return the config with Llama 4's own stop tokens beside those that the checkpoint names.

    Fine-tunes lose `<|eot|>` from their configs, and would print it and go on. The id 2 that transformers fills in is
    left out where it is an ordinary token.
    """
    specials, vocab = tokenizer.specials, config.text.vocab_size
    own = [specials[name] for name in STOP_TOKENS if name in specials]
    named = config.generation.eos_token_ids
    if own and _TRANSFORMERS_EOS in named and _TRANSFORMERS_EOS not in specials.values():
        _LOG.info("eos_token_id 2 is an ordinary token of this vocabulary and does not stop")
        named = tuple(token for token in named if token != _TRANSFORMERS_EOS)
    stops = tuple(token for token in dict.fromkeys((*named, *own)) if token < vocab)
    return replace(config, generation=replace(config.generation, eos_token_ids=stops))


def ids_without_token(vocab_size: int, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a padded vocabulary that stand for nothing, which must not be sampled."""
    return [token for token in range(vocab_size) if not tokenizer.has_id(token)]
