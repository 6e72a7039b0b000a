"""Stop strings and the end of an answer, whatever the cut of the text."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from llama4_local.decoding.detokenizer import Detokenizer
from llama4_local.decoding.sampler import ResolvedSampling, SampledToken
from llama4_local.decoding.stop_strings import StopStrings


def read(pieces: Sequence[str], stops: Sequence[str]) -> tuple[str, bool]:
    reader = StopStrings(stops)
    out = ""
    for piece in pieces:
        text, stopped = reader.push(piece)
        out += text
        if stopped:
            return out, True
    return out + reader.flush(), False


def plainly(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Up to the stop string that ends first; of several that end there the longest."""
    ends = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(ends)[1]], True) if ends else (text, False)


@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
)
def test_any_cut_of_the_text_ends_at_the_same_place(pieces: list[str], stops: list[str]) -> None:
    assert read(pieces, stops) == plainly("".join(pieces), stops)


@given(pieces=st.lists(st.text("ab", max_size=4), max_size=12), stop=st.text("ab", min_size=1, max_size=5))
def test_no_more_is_held_back_than_a_stop_string_may_need(pieces: list[str], stop: str) -> None:
    reader = StopStrings([stop])
    given = taken = ""
    for piece in pieces:
        text, stopped = reader.push(piece)
        given, taken = given + piece, taken + text
        if stopped:
            return
        held = given[len(taken) :]
        assert stop.startswith(held)
        assert not any(given.endswith(stop[:longer]) for longer in range(len(held) + 1, len(stop)))


def test_text_without_a_stop_string_passes_at_once() -> None:
    assert StopStrings(["xyz"]).push("hello") == ("hello", False)


def test_the_beginning_of_a_stop_string_is_held_back_and_then_let_go() -> None:
    reader = StopStrings(["###"])
    assert reader.push("a##") == ("a", False)
    assert reader.push("b") == ("##b", False)


def test_a_stop_string_that_does_not_count_yet_passes_as_text() -> None:
    reader = StopStrings(["ab"])
    assert reader.push("xaby", armed=False) == ("xaby", False)
    assert reader.push("ab") == ("", True)


class Letters:
    """A tokenizer in which token n is the n-th letter."""

    def push(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(97 + token) for token in token_ids)

    def flush(self) -> str:
        return ""


def answer(
    tokens: Sequence[int], rules: ResolvedSampling, stops: Sequence[str] = (), limit: int = 99
) -> tuple[str, str | None]:
    subject = Detokenizer(rules, stops, limit, decoder=Letters(), text_of=Letters().push)
    text = ""
    for token in tokens:
        logprob = None if rules.logprobs is None else -1.0
        delta, reason = subject.add(SampledToken(token, logprob))
        text += delta.text if delta else ""
        if reason:
            return text, reason
    return text, None


def test_a_stop_token_ends_the_answer_and_is_no_part_of_it() -> None:
    assert answer([0, 1, 25, 2], ResolvedSampling(stop_ids=frozenset({25}))) == ("ab", "stop")


def test_a_stop_string_ends_the_answer_across_tokens() -> None:
    assert answer([0, 1, 2, 3, 4], ResolvedSampling(), ["cd"]) == ("ab", "stop")


def test_the_last_token_that_is_allowed_ends_the_answer() -> None:
    assert answer([0, 1, 2, 3], ResolvedSampling(), limit=3) == ("abc", "length")


def test_what_was_held_back_comes_out_at_the_end() -> None:
    assert answer([0, 1, 2, 3], ResolvedSampling(), ["cx"], limit=3) == ("abc", "length")
    assert answer([0, 2, 25], ResolvedSampling(stop_ids=frozenset({25})), ["cx"]) == ("ac", "stop")


def test_a_stop_string_before_min_tokens_does_not_end_the_answer() -> None:
    assert answer([0, 1, 0, 1, 5], ResolvedSampling(min_tokens=3), ["ab"]) == ("ab", "stop")


def test_each_token_of_the_text_has_one_log_probability() -> None:
    subject = Detokenizer(ResolvedSampling(logprobs=0), ["bx"], 5, decoder=Letters(), text_of=Letters().push)
    found = [subject.add(SampledToken(token, -0.5)) for token in (0, 1, 2, 3, 4)]
    deltas = [delta for delta, _ in found if delta]
    assert [(delta.text, "".join(one.text for one in delta.logprobs)) for delta in deltas] == [
        ("a", "a"),
        ("bc", "bc"),
        ("d", "d"),
        ("e", "e"),
    ]
