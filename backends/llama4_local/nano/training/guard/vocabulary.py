"""nano-guard's tokenizer: byte-level BPE trained on its own data; a word carries the space before it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from llama4_local.nano.training.guard.data import CODES, mixture
from llama4_local.nano.training.vocabulary import tokenizer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

VOCABULARY = 3072
_CORPUS_CASES = 20_000
_PATTERN = r" ?S\d+| ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\n\n|\s"


def train_guard_tokenizer(seed: int = 0) -> Tokenizer:
    """Return the tokenizer, trained on the texts of the training data; the same for the same seed."""
    return tokenizer_of(_texts(seed), _PATTERN, VOCABULARY)


def _texts(seed: int) -> Iterator[str]:
    yield from [
        "user",
        "assistant",
        "User:",
        "Agent:",
        "\n\nJudge the last turn. S2 violence, theft, privacy, weapons, self-harm, malware.\n",
    ] * 1000
    yield from [text for code in CODES.values() for text in (f"{code} S", f"unsafe\n{code}", f" {code}", "safe")] * 1000
    for _, case in islice(mixture(seed), _CORPUS_CASES):
        yield from (message.text for message in case.messages)
