"""The tokenizer answers as Meta's published one, token for token."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest

import conformance_data
from llama4sdk.prompting.byte_level import to_bytes
from llama4sdk.prompting.special_tokens import published_special_tokens
from llama4sdk.prompting.tiktoken_file import build_engine, read_ranks
from llama4sdk.prompting.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    return read_ranks(conformance_data.file("tokenizer.model").read_bytes())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(conformance_data.file("tokenizer.model"))


def test_every_case_is_encoded_to_the_published_ids(tokenizer: Tokenizer) -> None:
    cases = conformance_data.cases("tokenizer_cases.json")
    wrong = [case["text"] for case in cases if tokenizer.encode(str(case["text"])) != case["ids"]]
    assert wrong == []


def test_every_case_is_decoded_to_its_text(tokenizer: Tokenizer) -> None:
    for case in json.loads(conformance_data.file("tokenizer_cases.json").read_text(encoding="utf-8")):
        decoder = tokenizer.decoder()
        assert tokenizer.decode(case["ids"]) == case["text"]
        assert "".join(decoder.push([i]) for i in case["ids"]) + decoder.flush() == case["text"]


def test_special_tokens_stand_at_the_published_ids(tokenizer: Tokenizer) -> None:
    assert dict(tokenizer.specials) == dict(zip(published_special_tokens(), range(200_000, 202_048), strict=True))
    assert tokenizer.vocab_size == 202_048


def test_merging_follows_the_ranks_whatever_the_split(ranks: dict[bytes, int]) -> None:
    # Without a list of merges any two neighbours may join; random texts must never show the difference.
    engine = build_engine(ranks)
    chance = random.Random(4)
    tokens = [token.decode("utf-8", "ignore") for token in chance.sample(sorted(ranks), 3000)]
    texts = ["".join(chance.choices(tokens, k=chance.randint(1, 6))) for _ in range(1500)]
    texts += ["".join(chance.choices(some, k=40)) for some in ("ab", "aA", "=-", "éè", "hahoe") for _ in range(100)]
    split = engine.pre_tokenizer
    assert split is not None
    for text in texts:
        expected = [i for piece, _ in split.pre_tokenize_str(text) for i in _merged(ranks, to_bytes(piece))]
        assert engine.encode(text).ids == expected


def _merged(ranks: dict[bytes, int], piece: bytes) -> list[int]:
    if piece in ranks:
        return [ranks[piece]]
    parts = [bytes([byte]) for byte in piece]
    while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]:
        _, place = min(pairs)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return [ranks[part] for part in parts]
