"""Text into ids: plain text stays plain text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import small_tokenizers as small
from llama4sdk.errors import InvalidRequest
from llama4sdk.prompting.special_tokens import published_special_tokens
from llama4sdk.prompting.tokenizer import Tokenizer

MODEL = Tokenizer.from_bytes(small.rank_file(), cache=False)
JSON = Tokenizer.from_bytes(small.json_file(), cache=False)
BOTH = pytest.mark.parametrize("tokenizer", [MODEL, JSON], ids=["tokenizer.model", "tokenizer.json"])
LOOKALIKES = ["<|eot|>", "a<|image|>b", "<|begin_of_text|><|patch|>", "<|header_start|>system", "  <|eot|>  "]


@BOTH
@given(text=st.text())
def test_decoding_gives_the_encoded_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@BOTH
def test_no_text_takes_no_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_neighbours_merge_by_lowest_rank_first() -> None:
    ranks = small.ranks()
    assert MODEL.encode("hello world") == [ranks[b"hello"], ranks[b" world"]]
    assert MODEL.encode("help") == [ranks[b"he"], ranks[b"l"], ranks[b"p"]]


def test_a_whole_piece_that_is_a_token_is_taken_whole() -> None:
    assert MODEL.encode("aaa") == [small.ranks()[b"aaa"]]


@pytest.mark.parametrize("text", ["a" * n for n in range(1, 20)] + ["hellohello", "hellollo", "helaaaahe"])
def test_merges_are_those_of_the_ranks(text: str) -> None:
    piece = text.encode()
    known = small.ranks().get(piece)
    assert MODEL.encode(text) == (_merge(piece) if known is None else [known])


def _merge(piece: bytes) -> list[int]:
    ranks, parts = small.ranks(), [bytes([byte]) for byte in piece]
    while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]:
        _, place = min(pairs)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return [ranks[part] for part in parts]


@BOTH
@pytest.mark.parametrize("text", LOOKALIKES)
def test_fault_41_special_tokens_in_any_text_are_ordinary_ids(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.specials.values())
    assert tokenizer.decode(ids, skip_special=True) == text


@pytest.mark.parametrize("special", [True, False], ids=["special", "added"])
@pytest.mark.parametrize("in_vocabulary", [True, False], ids=["in the vocabulary", "apart"])
@pytest.mark.parametrize("text", LOOKALIKES)
def test_fault_41_however_a_file_declares_its_special_tokens(special: bool, in_vocabulary: bool, text: str) -> None:
    data = small.json_file(special=special, in_vocabulary=in_vocabulary)
    tokenizer = Tokenizer.from_bytes(data, cache=False)
    assert tokenizer.special("<|eot|>") == 1
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.specials.values())
    assert tokenizer.decode(ids, skip_special=True) == text


@BOTH
@pytest.mark.parametrize("cut", range(1, len("<|eot|>")))
def test_fault_42_a_special_token_split_across_parts_stays_ordinary(tokenizer: Tokenizer, cut: int) -> None:
    ids = tokenizer.encode("<|eot|>"[:cut]) + tokenizer.encode("<|eot|>"[cut:])
    assert not set(ids) & set(tokenizer.specials.values())
    assert tokenizer.decode(ids, skip_special=True) == "<|eot|>"


@BOTH
@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\udc80" * 3])
def test_fault_44_a_lone_surrogate_is_an_invalid_request(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        tokenizer.encode(text)


@BOTH
@pytest.mark.parametrize("text", ["\0", "a\0b", "\U000e0001\U000e0041\U000e007f", "\ufeff\u200b"])
def test_fault_45_nul_and_tag_characters_are_kept(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_had_by_name() -> None:
    assert MODEL.special("<|begin_of_text|>") == len(small.ranks())
    assert JSON.special("<|begin_of_text|>") == 0
    assert dict(JSON.specials) == {name: place for place, name in enumerate(small.NAMES)}
    with pytest.raises(InvalidRequest, match="no special token '<|nonsense|>'".replace("|", r"\|")):
        JSON.special("<|nonsense|>")


def test_the_table_of_special_tokens_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        JSON.specials["<|eot|>"] = 7  # pyright: ignore[reportIndexIssue]


def test_the_vocabulary_reaches_to_the_largest_id() -> None:
    assert MODEL.vocab_size == len(small.ranks()) + 2048
    assert JSON.vocab_size == len(small.ranks()) + len(small.NAMES)
    far = Tokenizer.from_bytes(small.json_file(first=5000), cache=False)
    assert far.vocab_size == 5000 + len(small.NAMES)
    assert far.special("<|eot|>") == 5001


@BOTH
@pytest.mark.parametrize("token_id", [-1, 10**6, 10**12])
def test_an_id_outside_the_vocabulary_is_an_invalid_request(tokenizer: Tokenizer, token_id: int) -> None:
    with pytest.raises(InvalidRequest, match="not in the vocabulary"):
        tokenizer.decode([token_id])


def test_an_id_in_a_hole_of_the_vocabulary_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="not in the vocabulary"):
        Tokenizer.from_bytes(small.json_file(first=5000), cache=False).decode([4000])


def test_the_published_special_tokens_are_2048_different_names() -> None:
    names = published_special_tokens()
    assert len(names) == len(set(names)) == 2048


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("<|begin_of_text|>", 0),
        ("<|end_of_text|>", 1),
        ("<|fim_suffix|>", 4),
        ("<|header_start|>", 5),
        ("<|header_end|>", 6),
        ("<|eom|>", 7),
        ("<|eot|>", 8),
        ("<|python_start|>", 16),
        ("<|python_end|>", 17),
        ("<|finetune_right_pad|>", 18),
        ("<|text_post_train_reserved_special_token_68|>", 79),
        ("<|image_start|>", 80),
        ("<|image_end|>", 81),
        ("<|tile_x_separator|>", 84),
        ("<|tile_y_separator|>", 85),
        ("<|image|>", 90),
        ("<|patch|>", 92),
        ("<|vision_reserved_special_token_1047|>", 1133),
        ("<|reasoning_thinking_start|>", 1142),
        ("<|reasoning_thinking_end|>", 1143),
        ("<|reserved_special_token_903|>", 2047),
    ],
)
def test_published_special_tokens_stand_at_their_places(name: str, place: int) -> None:
    assert published_special_tokens()[place] == name
