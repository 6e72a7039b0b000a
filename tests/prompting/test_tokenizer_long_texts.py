"""Very long texts: cut as Meta's tokenizer cuts them, and encoded beside the event loop."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import small_tokenizers as small
from llama4sdk.prompting.pieces import MAX_RUN, MAX_SLICE, pieces
from llama4sdk.prompting.tiktoken_file import build_engine
from llama4sdk.prompting.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Engine

TOKENIZER = Tokenizer.from_bytes(small.rank_file(), cache=False)
runs = st.lists(
    st.tuples(st.sampled_from(["a", " ", "\n", "é", "\u3000"]), st.integers(1, 60_000)), min_size=1, max_size=8
)


def longest_run(text: str) -> int:
    return max(len(list(group)) for _, group in groupby(text, str.isspace))


@settings(max_examples=30, deadline=None)
@given(runs=runs)
def test_pieces_join_to_the_text_and_hold_no_long_run(runs: list[tuple[str, int]]) -> None:
    text = "".join(char * count for char, count in runs)
    parts = list(pieces(text))
    assert "".join(parts) == text
    assert all(len(part) <= MAX_SLICE and longest_run(part) <= MAX_RUN for part in parts)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("", []),
        ("a" * MAX_RUN, [MAX_RUN]),
        ("a" * (MAX_RUN + 1), [MAX_RUN, 1]),
        (" " * (2 * MAX_RUN), [MAX_RUN, MAX_RUN]),
        ("a" * 20_000 + " " + "a" * 20_000, [40_001]),
        ("b " + "a" * (MAX_RUN + 5), [MAX_RUN + 2, 5]),
        ("a" * 60_000 + " b", [25_000, 25_000, 10_002]),
        ("ab " * 200_000, [MAX_SLICE, 200_000]),
        # A slice starts the count anew: the run of 30,000 is cut at the slice's edge only.
        ("ab " * 130_000 + "c" * 30_000, [MAX_SLICE, 20_000]),
    ],
)
def test_cuts_fall_where_the_reference_has_them(text: str, lengths: list[int]) -> None:
    assert [len(piece) for piece in pieces(text)] == lengths


@pytest.mark.parametrize("text", ["a" * 1_000_000, " " * 1_000_000, "\n" * 1_000_000, "A" * 1_000_000, " \n" * 500_000])
def test_fault_46_a_megabyte_of_one_kind_is_encoded(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert sum(len(TOKENIZER.token_bytes(token_id) or b"") for token_id in ids) == len(text)


class Watched:
    """An engine that notes how often the loop took its turn while it worked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.turns = 0
        self.seen: list[int] = []

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> object:
        before = self.turns
        found = self.engine.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        self.seen.append(self.turns - before)
        return found


async def test_fault_46_the_loop_takes_its_turns_while_the_engine_works() -> None:
    watched = Watched(build_engine(small.ranks()))
    tokenizer = Tokenizer(cast("Engine", watched), {}, "")

    async def encode(scope: anyio.CancelScope) -> None:
        await tokenizer.encode_async("hello world " * 33_000)
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(encode, tasks.cancel_scope)
        while True:
            await anyio.sleep(0.001)
            watched.turns += 1
    assert len(watched.seen) == 1
    assert watched.seen[0] > 3  # with Python's lock held it would be none


def test_encoding_in_the_background_works_under_trio_too() -> None:
    text = "hello world " * 1000
    assert anyio.run(TOKENIZER.encode_async, text, backend="trio") == TOKENIZER.encode(text)


async def test_encoding_in_the_background_gives_the_same_ids() -> None:
    for text in ("hello", "hello world " * 1000):
        assert await TOKENIZER.encode_async(text) == TOKENIZER.encode(text)
