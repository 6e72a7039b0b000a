"""Meta's `tokenizer.model`: BPE ranks in tiktoken's text form, made into an engine.

A line holds a token's bytes in base64 and its rank, which is its id as well. The file has no merges: any two
neighbours whose joined bytes are a token may merge, lowest rank first. The tokenizer library needs a list, so every
split of every token into two tokens becomes one merge, in the order of the ranks.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from llama4sdk.prompting.byte_level import to_chars

if TYPE_CHECKING:
    import tokenizers

# The published pattern of Llama 4 ("o200k" with a slash after punctuation): words with their contractions,
# numbers of up to three digits, punctuation, line ends, spaces.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PATTERN = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_SHOWN_PROBLEMS = 20


class MalformedRanksError(ValueError):
    """The file is not a list of ranks; `problems` says where."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def read_ranks(data: bytes) -> dict[bytes, int]:
    """Read the lines of a rank file into token bytes → rank.

    Raises:
        MalformedRanksError: A line cannot be read, a rank is missing or twice, or a byte has no token.
    """
    ranks: dict[bytes, int] = {}
    problems: list[str] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            problems.append(f"line {number} is not a base64 token and a rank")
            if len(problems) >= _SHOWN_PROBLEMS:
                break
    if not problems:
        problems = _gaps(ranks)
    if problems:
        raise MalformedRanksError(problems)
    return ranks


def _gaps(ranks: dict[bytes, int]) -> list[str]:
    problems: list[str] = []
    if set(ranks.values()) != set(range(len(ranks))):
        problems.append("the ranks are not the numbers from 0 on, each once")
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing:
        problems.append(f"{missing} of the 256 single bytes have no token")
    return problems


def build_engine(ranks: dict[bytes, int]) -> tokenizers.Tokenizer:
    """Build the BPE engine for these ranks, without special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocab = {to_chars(token): rank for token, rank in ranks.items()}
    # A piece that is itself a token is taken whole, as tiktoken does, whatever its merges say.
    engine = Tokenizer(models.BPE(vocab, _merges(vocab), ignore_merges=True))
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    return engine


def _merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for token in sorted(vocab, key=vocab.__getitem__):
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [(left, right) for left, right in halves if left in vocab and right in vocab]
        merges += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges
