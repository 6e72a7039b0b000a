"""Ids into text, in any pieces, without cutting a character."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

import small_tokenizers as small
from llama4sdk.prompting.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_bytes(small.json_file(), cache=False)
SINGLE = {TOKENIZER.token_bytes(i): i for i in range(len(small.NAMES), len(small.NAMES) + 256)}
EOT = TOKENIZER.special("<|eot|>")
any_ids = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=60)


def bytewise(data: bytes) -> list[int]:
    return [SINGLE[bytes([byte])] for byte in data]


def test_a_cut_character_is_held_back() -> None:
    decoder = TOKENIZER.decoder()
    first, second, third, fourth = bytewise("🦙".encode())
    assert [decoder.push([i]) for i in (first, second, third)] == ["", "", ""]
    assert decoder.push([fourth]) == "🦙"
    assert decoder.flush() == ""


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    decoder = TOKENIZER.decoder()
    assert decoder.push(bytewise(b"a\xf0\x9f")) == "a"
    assert decoder.flush() == "\N{REPLACEMENT CHARACTER}"
    assert decoder.push(bytewise(b"b")) == "b"


def test_bytes_that_become_no_character_are_replaced_at_once() -> None:
    assert TOKENIZER.decoder().push(bytewise(b"\xff")) == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_are_named_or_skipped() -> None:
    ids = [0, *TOKENIZER.encode("hello"), EOT]
    assert TOKENIZER.decode(ids) == "<|begin_of_text|>hello<|eot|>"
    assert TOKENIZER.decode(ids, skip_special=True) == "hello"


def test_no_character_reaches_across_a_special_token() -> None:
    head, tail = bytewise("é".encode())
    replaced = "\N{REPLACEMENT CHARACTER}"
    assert TOKENIZER.decode([head, EOT, tail]) == f"{replaced}<|eot|>{replaced}"
    assert TOKENIZER.decode([head, EOT, tail], skip_special=True) == replaced * 2


def test_special_tokens_have_no_bytes_of_their_own() -> None:
    assert TOKENIZER.token_bytes(EOT) is None


@given(ids=any_ids, cuts=st.lists(st.integers(0, 60)), skip=st.booleans())
def test_pieces_join_to_what_decoding_at_once_says(ids: list[int], cuts: list[int], skip: bool) -> None:
    decoder = TOKENIZER.decoder(skip_special=skip)
    places = [0, *sorted(cuts), len(ids)]
    text = "".join(decoder.push(ids[a:b]) for a, b in pairwise(places)) + decoder.flush()
    assert text == TOKENIZER.decode(ids, skip_special=skip)


@given(data=st.binary(max_size=60))
def test_without_special_tokens_the_text_is_that_of_the_bytes(data: bytes) -> None:
    assert TOKENIZER.decode(bytewise(data)) == data.decode("utf-8", errors="replace")


@given(text=st.text(max_size=40))
def test_every_piece_on_the_way_is_the_beginning_of_the_text(text: str) -> None:
    decoder, so_far = TOKENIZER.decoder(), ""
    for token_id in bytewise(text.encode()):
        so_far += decoder.push([token_id])
        assert text.startswith(so_far)
    assert so_far == text


def test_a_decoder_holds_no_more_than_one_character_back() -> None:
    decoder = TOKENIZER.decoder()
    ids = bytewise("é🦙".encode()) * 20_000
    lengths = [len(decoder.push([token_id])) for token_id in ids]
    assert sum(lengths) == 40_000
    assert max(lengths) == 1
